package keys

import (
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// MainGroup is how people call the first trust group, whose name is empty.
const MainGroup = "main"

// maxGroupName bounds the name of a group, in bytes.
const maxGroupName = 63

// Group is a trust group: the hosts that share names of chunks, and so
// deduplicate against each other and can read each other's metadata.
type Group struct {
	Name     string    // "" is the first
	ChunkKey chunk.Key // K_id
	MetaKey  Secret    // K_meta
	WALKeys  []KeyPair // oldest first
}

// String is the group's name for people. It shows no secret.
func (g Group) String() string { return ShowGroup(g.Name) }

// ShowGroup is how people call the group of this name.
func ShowGroup(name string) string {
	if name == "" {
		return MainGroup
	}
	return name
}

// ParseGroup is the name of the group that a person calls text: MainGroup and
// nothing are the first. It wraps ErrFormat if no group may be called so: a
// name is 1 to 63 lower-case letters, digits, "-" and "_".
func ParseGroup(text string) (string, error) {
	if text == "" || text == MainGroup {
		return "", nil
	}
	if !validGroup(text) {
		return "", malformed("name of a group %q", text)
	}
	return text, nil
}

func validGroup(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return len(name) <= maxGroupName && name != MainGroup
}

// Groups are all groups whose keys the bundle holds, its own first. They
// share their memory with the bundle.
func (b *Bundle) Groups() []Group {
	return append([]Group{{Name: b.Group, ChunkKey: b.ChunkKey, MetaKey: b.MetaKey, WALKeys: b.WALKeys}}, b.Others...)
}

// validateGroups checks that no two groups share a name or a key: what one
// group sealed would be another's.
func (b *Bundle) validateGroups() error {
	if len(b.Others) > 0 && b.Role != Owner {
		return malformed("keys of other groups in the bundle of a %s", b.Role)
	}
	if !b.signed() {
		if b.Group != "" || len(b.Others) > 0 || b.Common != b.MetaKey {
			return malformed("groups in a bundle without a root key")
		}
		return nil
	}
	groups := b.Groups()
	for i := range groups {
		g := &groups[i]
		if !validGroup(g.Name) {
			return malformed("name of a group %q", g.Name)
		}
		if g.ChunkKey == (chunk.Key{}) || g.MetaKey.IsZero() || g.MetaKey == b.Common {
			return malformed("keys of group %s", g)
		}
		if i > 0 {
			if err := validateKeys("WAL", g.WALKeys, b.Role.opensWAL()); err != nil {
				return fmt.Errorf("group %s: %w", g, err)
			}
		}
		for j := range i {
			if o := &groups[j]; o.Name == g.Name || o.ChunkKey == g.ChunkKey || o.MetaKey == g.MetaKey || shareKey(o.WALKeys, g.WALKeys) {
				return malformed("groups %s and %s are not two", o, g)
			}
		}
	}
	return nil
}

func shareKey(a, b []KeyPair) bool {
	for i := range a {
		for j := range b {
			if a[i].ID == b[j].ID {
				return true
			}
		}
	}
	return false
}
