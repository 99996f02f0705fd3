package snapshot

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/chunk"
)

// Type is the kind of a listing entry.
type Type uint8

// The types of entries.
const (
	Dir        Type = 1
	File       Type = 2
	Symlink    Type = 3 // Link holds the target
	Tablespace Type = 4 // data/pg_tblspc/<oid>: Link holds the location; the contents follow below it
)

// String names the type.
func (t Type) String() string {
	switch t {
	case Dir:
		return "directory"
	case File:
		return "file"
	case Symlink:
		return "symlink"
	case Tablespace:
		return "tablespace"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Roots of the paths in a listing.
const (
	DataRoot   = "data"   // the data directory itself, and everything below it as "data/..."
	ConfigRoot = "config" // configuration files that live outside the data directory; Link holds the original path
)

// UnarchivedDir is a directory at the top of a data directory that is never in a listing: a restore into a directory with
// content moves WAL there that it found in pg_wal and that was never archived. It may be all that is left of the last
// transactions.
const UnarchivedDir = "pgtrove-unarchived-wal"

// Entry is one line of a snapshot's listing.
type Entry struct {
	Path  string // slash-separated, below DataRoot or ConfigRoot
	Type  Type
	Mode  uint32 // permission bits, 07777
	Owner Owner
	Size  int64 // bytes of a File as stored
	Stat  Stat
	Link  string
	// Recipe rebuilds a File; the zero value stands for an empty one.
	Recipe RecipeRef
}

// Owner is a file's owner. Restore prefers the names, since numbers differ between hosts.
type Owner struct {
	UID, GID    uint32
	User, Group string
}

// Stat is what tells a changed file from an unchanged one. Times are nanoseconds since 1970 UTC.
type Stat struct {
	ModTime, ChangeTime int64
	Device, Inode       uint64
}

// RecipeRef is a recipe or where it is: Inline bytes, or the meta chunks whose concatenation it is.
type RecipeRef struct {
	Inline []byte
	Chunks []chunk.ID
}

// Empty says that there is nothing to rebuild.
func (r RecipeRef) Empty() bool { return len(r.Inline) == 0 && len(r.Chunks) == 0 }

const (
	refNone   = 0
	refInline = 1
	refChunks = 2

	maxPath         = 8192
	maxEntry        = 1 << 20
	maxRecipeChunks = 1 << 12
)

// appendEntry appends e in the listing's form: its length, then its fields.
func appendEntry(dst []byte, e *Entry) []byte {
	var b []byte
	b = appendString(b, e.Path)
	b = append(b, byte(e.Type))
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.Owner.UID))
	b = binary.AppendUvarint(b, uint64(e.Owner.GID))
	b = appendString(b, e.Owner.User)
	b = appendString(b, e.Owner.Group)
	b = binary.AppendUvarint(b, uint64(e.Size))
	b = binary.AppendVarint(b, e.Stat.ModTime)
	b = binary.AppendVarint(b, e.Stat.ChangeTime)
	b = binary.AppendUvarint(b, e.Stat.Device)
	b = binary.AppendUvarint(b, e.Stat.Inode)
	b = appendString(b, e.Link)
	b = appendRef(b, e.Recipe)
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendRef(b []byte, r RecipeRef) []byte {
	switch {
	case r.Empty():
		return append(b, refNone)
	case len(r.Chunks) == 0:
		b = append(b, refInline)
		b = binary.AppendUvarint(b, uint64(len(r.Inline)))
		return append(b, r.Inline...)
	}
	b = append(b, refChunks)
	b = binary.AppendUvarint(b, uint64(len(r.Chunks)))
	for i := range r.Chunks {
		b = append(b, r.Chunks[i][:]...)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// parseEntry reads the fields of one entry, b being exactly its bytes. The result owns its memory.
func parseEntry(b []byte) (Entry, error) {
	d := decoder{b: b}
	e := Entry{
		Path: d.str(maxPath),
		Type: Type(d.byte()),
		Mode: uint32(d.uvarint(07777)),
		Owner: Owner{
			UID: uint32(d.uvarint(1<<32 - 1)), GID: uint32(d.uvarint(1<<32 - 1)),
			User: d.str(256), Group: d.str(256),
		},
		Size: int64(d.uvarint(1<<63 - 1)),
		Stat: Stat{ModTime: d.varint(), ChangeTime: d.varint(), Device: d.uvarint(1<<64 - 1), Inode: d.uvarint(1<<64 - 1)},
		Link: d.str(maxPath),
	}
	e.Recipe = d.ref()
	if err := d.finish("listing entry"); err != nil {
		return Entry{}, err
	}
	return e, e.validate()
}

func (e *Entry) validate() error {
	if e.Type < Dir || e.Type > Tablespace {
		return fmt.Errorf("%w: entry %q has %s", ErrInvalid, e.Path, e.Type)
	}
	if !validPath(e.Path) {
		return fmt.Errorf("%w: entry path %q", ErrInvalid, e.Path)
	}
	if e.Type != File && !e.Recipe.Empty() {
		return fmt.Errorf("%w: entry %q is a %s with content", ErrInvalid, e.Path, e.Type)
	}
	return nil
}

// validPath refuses whatever could leave the directory that a restore writes to.
func validPath(p string) bool {
	if p != DataRoot && p != ConfigRoot && !strings.HasPrefix(p, DataRoot+"/") && !strings.HasPrefix(p, ConfigRoot+"/") {
		return false
	}
	if strings.ContainsRune(p, 0) {
		return false
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
