package keys

import (
	"errors"
	"testing"

	"filippo.io/age"
)

func recipientText(t *testing.T, r age.Recipient) string {
	t.Helper()
	switch r := r.(type) {
	case *age.HybridRecipient:
		return r.String()
	case *age.X25519Recipient:
		return r.String()
	}
	t.Fatalf("recipient %T", r)
	return ""
}

// TestBundleIsOpenedOnlyByWhomItIsFor: a hostile host can wrap its own bundle
// for the recipient of another one, which would then work with its keys.
func TestBundleIsOpenedOnlyByWhomItIsFor(t *testing.T) {
	owner := generate(t)
	hostile, theirs := newIdentity(t)
	victim, mine := newIdentity(t)
	b := issue(t, owner, IssueOptions{Name: "db1", Role: Standby, Recipients: []string{recipientText(t, theirs)}})
	if _, err := Unwrap(wrap(t, b, theirs), hostile); err != nil {
		t.Errorf("its own: %v", err)
	}
	if _, err := Unwrap(wrap(t, b, mine), victim); !errors.Is(err, ErrOrigin) {
		t.Errorf("wrapped for another: %v", err)
	}
	both := issue(t, owner, IssueOptions{Name: "db1", Role: Standby, Recipients: []string{recipientText(t, theirs), recipientText(t, mine)}})
	if _, err := Unwrap(wrap(t, both, mine), victim); err != nil {
		t.Errorf("one of two: %v", err)
	}

	passphrase := issue(t, owner, IssueOptions{Name: "db1", Role: Standby, Recipients: []string{}})
	if _, err := Unwrap(wrap(t, passphrase, mine), victim); !errors.Is(err, ErrOrigin) {
		t.Errorf("a passphrase's, wrapped for another: %v", err)
	}
	recipient, id, err := Passphrase("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(wrap(t, passphrase, recipient), id); err != nil {
		t.Errorf("a passphrase's: %v", err)
	}
	if _, err := Unwrap(wrap(t, issue(t, owner, IssueOptions{Name: "db1", Role: Writer}), mine), victim); err != nil {
		t.Errorf("for anybody: %v", err)
	}
}

func TestKindsOfIdentitiesOpenWhatIsForThem(t *testing.T) {
	owner := generate(t)
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	public, private := sshKey(t, "")
	lockedPublic, locked := sshKey(t, "correct horse")
	installPlugin(t)
	pluginIdentity, pluginRecipient := pluginKey(t)
	for name, c := range map[string]struct {
		recipient string
		identity  []byte
	}{
		"X25519":        {x.Recipient().String(), []byte(x.String())},
		"SSH":           {public, private},
		"encrypted SSH": {lockedPublic, locked},
		"plugin":        {pluginRecipient, []byte(pluginIdentity)},
	} {
		p := Prompts{Passphrase: func(string) (string, error) { return "correct horse", nil }}
		file, err := p.ParseIdentityFile(c.identity)
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := ParseRecipient(c.recipient)
		if err != nil {
			t.Fatal(err)
		}
		mine := issue(t, owner, IssueOptions{Name: "db1", Role: Writer, Recipients: []string{"age1other", c.recipient}})
		if _, err := Unwrap(wrap(t, mine, r), file.Identities...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		other := issue(t, owner, IssueOptions{Name: "db1", Role: Writer, Recipients: []string{"age1other"}})
		want := ErrOrigin
		if name == "plugin" { // which does not say what its recipient is
			want = nil
		}
		if _, err := Unwrap(wrap(t, other, r), file.Identities...); !errors.Is(err, want) {
			t.Errorf("%s opens what is another's: %v", name, err)
		}
	}
}
