package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"filippo.io/age"
)

// maxScryptWork bounds the work that a wrapped bundle, which is not
// authenticated yet, may ask for: 2^20 rounds take 1 GiB of memory. Wrap
// uses age's default, 2^18.
const maxScryptWork = 20

// Wrap encrypts a bundle, with age, so that each of the recipients can open
// it. It is what `keys/<id>` holds. A passphrase's recipient must be alone,
// and post-quantum recipients do not mix with others: age refuses.
func Wrap(b *Bundle, recipients ...age.Recipient) ([]byte, error) {
	plain, err := encodeBundle(b)
	if err != nil {
		return nil, fmt.Errorf("wrap %s: %w", b, err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err != nil {
		return nil, fmt.Errorf("wrap %s: %w", b, err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", b, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("wrap %s: %w", b, err)
	}
	return out.Bytes(), nil
}

// Unwrap opens a wrapped bundle with the first identity that fits. It wraps
// ErrLocked if none does (or none was given, or the plugin or the SSH key of
// one failed), ErrDamaged if the bytes are no age file or were changed,
// ErrFormat or ErrVersion if what was in them is no bundle of this program,
// and ErrOrigin if its certificate is not for it, or not for who opened it.
//
// That a bundle opens proves that whoever made it knew the recipient's
// public key, no more, unless CheckRoot knows the repository's root key from
// elsewhere: repo does that, and compares its repository with the config.
func Unwrap(data []byte, identities ...age.Identity) (*Bundle, error) {
	var failed error
	for _, id := range quietFirst(identities) {
		plain, err := decrypt(data, id)
		var no *age.NoIdentityMatchError
		switch {
		case err == nil:
			b, err := decodeBundle(plain)
			if err == nil {
				err = b.checkHolder(id)
			}
			if err != nil {
				return nil, fmt.Errorf("unwrap key bundle: %w", err)
			}
			return b, nil
		case errors.As(err, &no):
		case !errors.Is(err, ErrLocked):
			return nil, fmt.Errorf("unwrap key bundle: %w: %w", ErrDamaged, err)
		case failed == nil:
			failed = err
		default:
			failed = fmt.Errorf("%w; %w", failed, err)
		}
	}
	if failed == nil {
		failed = ErrLocked
	}
	return nil, fmt.Errorf("unwrap key bundle: %w", failed)
}

// decrypt tries one identity, so that one that cannot be asked (a token that
// is not there) does not keep the next from being tried.
func decrypt(data []byte, id age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(data), id)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxBundle+1))
}

// GenerateIdentity makes a post-quantum age identity: the text of its file,
// which is the secret, and the recipient to wrap bundles for. `age` and
// `age-keygen` (1.3 or newer) can read the file.
func GenerateIdentity() (fileText []byte, recipient age.Recipient, err error) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, nil, fmt.Errorf("generate identity: %w", err)
	}
	var t strings.Builder
	t.WriteString("# pgtrove identity file. Whoever has it can do what its key may; an owner's opens every backup.\n")
	t.WriteString("# If no owner's is left the backups are lost: keep a copy of an owner's elsewhere.\n")
	fmt.Fprintf(&t, "# created: %s\n", time.Now().UTC().Format(time.RFC3339))
	fmt.Fprintf(&t, "# public key: %s\n", id.Recipient())
	fmt.Fprintf(&t, "%s\n", id)
	return []byte(t.String()), id.Recipient(), nil
}

// Passphrase makes the two sides of a passphrase. Both take about a second
// and 256 MiB of memory at each use, by age's scrypt. It wraps ErrFormat if
// the passphrase is empty.
func Passphrase(pass string) (age.Recipient, age.Identity, error) {
	if pass == "" {
		return nil, nil, fmt.Errorf("read passphrase: %w: it is empty", ErrFormat)
	}
	r, err := age.NewScryptRecipient(pass)
	if err != nil {
		return nil, nil, fmt.Errorf("read passphrase: %w", err)
	}
	id, err := age.NewScryptIdentity(pass)
	if err != nil {
		return nil, nil, fmt.Errorf("read passphrase: %w", err)
	}
	id.SetMaxWorkFactor(maxScryptWork)
	return r, &passphraseIdentity{scrypt: id}, nil
}

// passphraseIdentity is age's, but gives scrypt's memory back: as garbage it
// would let the heap grow to twice its size for the rest of a backup.
type passphraseIdentity struct {
	scrypt *age.ScryptIdentity
}

// Unwrap implements age.Identity.
func (i *passphraseIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := i.scrypt.Unwrap(stanzas)
	for _, s := range stanzas {
		if s.Type == "scrypt" {
			debug.FreeOSMemory()
			break
		}
	}
	return key, err
}
