package keys

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// Generate makes the keys of a new repository, and its root key: an Owner's
// bundle, with a certificate for all clusters and an entry ID of its own. It
// wraps ErrFormat if name cannot be one.
func Generate(repositoryID, name string) (*Bundle, error) {
	if repositoryID == "" {
		return nil, fmt.Errorf("generate keys: %w: no repository ID", ErrFormat)
	}
	b := &Bundle{Role: Owner, Repository: repositoryID, Common: newSecret()}
	g, err := newGroup("")
	if err != nil {
		return nil, fmt.Errorf("generate keys: %w", err)
	}
	b.setGroup(g)
	data, err := generateKeyPair()
	if err != nil {
		return nil, fmt.Errorf("generate data key: %w", err)
	}
	b.DataKeys = []KeyPair{data}
	b.Signing.RootSecret = newSecret()
	b.Signing.Root = publicOf(b.Signing.RootSecret.private())
	b.Signing.Secret = newSecret()
	if err := b.certify(&Certificate{Entry: NewEntryID(), Name: name, Clusters: []string{AnyCluster}, Created: time.Now()}); err != nil {
		return nil, fmt.Errorf("generate keys: %w", err)
	}
	return b, nil
}

// NewEntryID makes the ID of a new entry: 16 random hexadecimal digits.
func NewEntryID() string {
	var id [EntryIDSize]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	return hex.EncodeToString(id[:])
}

func newSecret() (s Secret) {
	_, _ = rand.Read(s[:]) // never fails: crypto/rand
	return s
}

func newGroup(name string) (Group, error) {
	g := Group{Name: name, MetaKey: newSecret()}
	_, _ = rand.Read(g.ChunkKey[:]) // never fails: crypto/rand
	wal, err := generateKeyPair()
	if err != nil {
		return Group{}, fmt.Errorf("WAL key: %w", err)
	}
	g.WALKeys = []KeyPair{wal}
	return g, nil
}

func (b *Bundle) setGroup(g Group) {
	b.Group, b.ChunkKey, b.MetaKey, b.WALKeys = g.Name, g.ChunkKey, g.MetaKey, g.WALKeys
}

// IssueOptions are who a bundle is for.
type IssueOptions struct {
	Entry    string // ID; "": a new one
	Name     string
	Role     Role
	Group    string    // "" is the first
	Clusters []string  // whose snapshots it may write; AnyCluster: all. At least one
	Created  time.Time // zero: now
	// Recipients are the texts of those that the bundle will be wrapped for;
	// empty: only a passphrase. Nobody can wrap it for another, to have
	// somebody else work with these keys. nil: it may be wrapped for anybody.
	Recipients []string
}

// Issue makes the bundle of another entry, with a signing key and a
// certificate of its own. For an entry that is there it makes its next
// bundle. b must be an Owner's. It wraps ErrRole if it is none, or if nothing
// is signed in its repository, and ErrFormat if there is no such group or the
// options are not fit for a certificate.
func (b *Bundle) Issue(o IssueOptions) (*Bundle, error) {
	if b.Signing.RootSecret.IsZero() {
		return nil, fmt.Errorf("make bundle of role %s from %s: %w", o.Role, b, ErrRole)
	}
	if !o.Role.Valid() {
		return nil, fmt.Errorf("make bundle: %w: unknown role %q", ErrFormat, string(o.Role))
	}
	groups := b.Groups()
	at := slices.IndexFunc(groups, func(g Group) bool { return g.Name == o.Group })
	if at < 0 {
		return nil, fmt.Errorf("make bundle: %w: there is no group %q", ErrFormat, o.Group)
	}
	c := *b
	c.Role = o.Role
	c.setGroup(groups[at])
	c.DataKeys = copyKeys(c.DataKeys, o.Role.opensData())
	c.WALKeys = copyKeys(c.WALKeys, o.Role.opensWAL())
	c.Others = nil
	if o.Role == Owner {
		c.Others = slices.Delete(groups, at, at+1)
	}
	c.Signing.Secret = newSecret()
	if o.Entry == "" {
		o.Entry = NewEntryID()
	}
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	if err := c.certify(&Certificate{Entry: o.Entry, Name: o.Name, Clusters: o.Clusters, Created: o.Created, Recipients: digestsOf(o.Recipients)}); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	if o.Role != Owner {
		c.Signing.RootSecret = Secret{}
	}
	return &c, nil
}

// certify gives b, which must hold the root key's secret, a certificate that
// says of its holder what c does.
func (b *Bundle) certify(c *Certificate) error {
	b.Name, b.Created = c.Name, c.Created.UTC().Truncate(time.Second)
	c.Repository, c.Role, c.Group, c.Created = b.Repository, b.Role, b.Group, b.Created
	c.Public, c.Keys = publicOf(b.Signing.Secret.private()), b.keysDigest()
	var err error
	b.Signing.Certificate, err = c.certify(b.Signing.RootSecret.private())
	return err
}

// AddGroup is a copy of an Owner's bundle with one more trust group, and the
// certificate for that. Other owners' bundles have to be issued anew from it.
// It wraps ErrRole as Issue does, and ErrFormat if no group can have the name
// or one has it.
func (b *Bundle) AddGroup(name string) (*Bundle, error) {
	if name == "" || !validGroup(name) {
		return nil, fmt.Errorf("add group: %w: name of a group %q", ErrFormat, name)
	}
	return b.renew("add group", func(c *Bundle) error {
		for _, g := range c.Groups() {
			if g.Name == name {
				return fmt.Errorf("%w: there is a group %q", ErrFormat, name)
			}
		}
		g, err := newGroup(name)
		if err == nil {
			c.Others = append(slices.Clone(c.Others), g)
		}
		return err
	})
}

// RotateData is a copy of an Owner's bundle with one more data key pair and
// one more WAL key pair for each group, which all that is written with it is
// sealed to, and the certificate for that. What was sealed before it opens as
// before. All other bundles have to be issued anew from it. It wraps ErrRole
// as Issue does.
func (b *Bundle) RotateData() (*Bundle, error) {
	return b.renew("rotate data keys", func(c *Bundle) error {
		var err error
		if c.DataKeys, err = withNewKey(c.DataKeys); err != nil {
			return err
		}
		if c.WALKeys, err = withNewKey(c.WALKeys); err != nil {
			return err
		}
		c.Others = slices.Clone(c.Others)
		for i := range c.Others {
			if c.Others[i].WALKeys, err = withNewKey(c.Others[i].WALKeys); err != nil {
				return err
			}
		}
		return nil
	})
}

func withNewKey(keys []KeyPair) ([]KeyPair, error) {
	k, err := generateKeyPair()
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(keys), k), nil
}

// renew changes a copy of an owner's bundle and certifies it for the same
// entry and the same signing key.
func (b *Bundle) renew(what string, change func(*Bundle) error) (*Bundle, error) {
	old := b.Certificate()
	if b.Signing.RootSecret.IsZero() || old == nil {
		return nil, fmt.Errorf("%s with %s: %w", what, b, ErrRole)
	}
	c := *b
	if err := change(&c); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := c.certify(old); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &c, nil
}

func copyKeys(keys []KeyPair, secrets bool) []KeyPair {
	out := append([]KeyPair(nil), keys...)
	if !secrets {
		for i := range out {
			out[i].Secret = Secret{}
		}
	}
	return out
}
