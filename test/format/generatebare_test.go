package format

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
)

// initBare makes a repository as it was before there were root keys: with a bundle of version 1.
func initBare(t *testing.T, store storage.Store, recipient age.Recipient, identity string) (*repo.Repo, *keys.Bundle) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := repo.Init(t.Context(), store, recipient, goldenTime(0))
	must(err)
	var bundle *keys.Bundle
	must(store.List(t.Context(), "keys/", func(i storage.Info) error {
		wrapped, err := store.Get(t.Context(), i.Key, storage.Range{}, nil)
		if err == nil && !strings.Contains(i.Key, ".") {
			bundle, err = keys.Unwrap(wrapped, goldenIdentities(t, identity)...)
		}
		return errors.Join(err, store.Delete(t.Context(), i.Key))
	}))
	bundle.Signing, bundle.Common = keys.Signing{}, bundle.MetaKey
	wrapped, err := keys.Wrap(bundle, recipient)
	must(err)
	must(store.Put(t.Context(), "keys/"+keys.NewEntryID(), wrapped))
	r, err := repo.Open(t.Context(), store, goldenIdentities(t, identity)...)
	must(err)
	return r, bundle
}

func withoutSecrets(pairs []keys.KeyPair) []keys.KeyPair {
	pairs = slices.Clone(pairs)
	for i := range pairs {
		pairs[i].Secret = keys.Secret{}
	}
	return pairs
}
