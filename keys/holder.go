package keys

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"
)

// labelRecipient begins what is digested of a recipient.
const labelRecipient = "pgtrove v1 recipient"

// heldIdentity is an SSH key or the identity of a plugin.
type heldIdentity struct {
	inner     age.Identity
	recipient string // the text of its recipient; "" is not known
	loud      string // what starts a program or asks a person; "" does not
}

// Unwrap implements age.Identity. If a program or a person fails, the next
// identity is tried, and the bundle is not damaged.
func (i *heldIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := i.inner.Unwrap(stanzas)
	if err != nil && i.loud != "" && !errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, fmt.Errorf("%w: %s: %w", ErrLocked, i.loud, err)
	}
	return key, err
}

// quietFirst has those identities last that start a program or ask a person.
func quietFirst(ids []age.Identity) []age.Identity {
	loud := func(id age.Identity) int {
		if i, ok := id.(*heldIdentity); ok && i.loud != "" {
			return 1
		}
		return 0
	}
	ids = slices.Clone(ids)
	slices.SortStableFunc(ids, func(a, b age.Identity) int { return loud(a) - loud(b) })
	return ids
}

// recipientOf is the text of the identity's recipient; "" if only a program
// or a person knows it.
func recipientOf(id age.Identity) string {
	switch id := id.(type) {
	case *age.HybridIdentity:
		return id.Recipient().String()
	case *age.X25519Identity:
		return id.Recipient().String()
	case *heldIdentity:
		return id.recipient
	}
	return ""
}

// digestOf is what a certificate has of a recipient: of an SSH key without
// its comment.
func digestOf(recipient string) []byte {
	if f := strings.Fields(recipient); len(f) > 2 {
		recipient = f[0] + " " + f[1]
	}
	sum := sha256.Sum256(bind(labelRecipient, strings.TrimSpace(recipient)))
	return sum[:16]
}

// digestsOf keeps nil, which says something else than an empty list.
func digestsOf(recipients []string) [][]byte {
	if recipients == nil {
		return nil
	}
	all := [][]byte{}
	for _, r := range recipients {
		all = append(all, digestOf(r))
	}
	return all
}

// checkHolder makes sure that the bundle is one for who opened it: who has
// another one, and wraps that for somebody's recipient, would make them work
// with keys and under a name that are not theirs. Who wraps for a passphrase
// knows it, and a plugin does not tell its recipient.
func (b *Bundle) checkHolder(id age.Identity) error {
	c, recipient := b.Certificate(), recipientOf(id)
	if c == nil || c.Recipients == nil || recipient == "" {
		return nil
	}
	want := digestOf(recipient)
	if !slices.ContainsFunc(c.Recipients, func(d []byte) bool { return bytes.Equal(d, want) }) {
		return fmt.Errorf("%s: %w: it is not for who opened it", b, ErrOrigin)
	}
	return nil
}
