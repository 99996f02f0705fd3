package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"filippo.io/age"
)

// Repository is a repository in a directory that one bundle opens.
type Repository struct {
	Config Config
	Bundle *Bundle
	fsys   fs.FS
	names  []string
	run    *Run // the newest; nil: there is none
	places map[ID]place
	usable map[ID]bool // by a writer
}

// place is where a chunk is: at i of the directory of the pack key.
type place struct {
	key       string
	directory *Directory
	i         int
}

// Config is section 6.1.
type Config struct {
	Version int `json:"pgtrove_repository"`
	ID      string
	Created time.Time
	Params  struct {
		PackSize int64 `json:"pack_size"`
	}
}

// Open reads the config and the first bundle that the identities open, the
// names of all objects, and the index.
func Open(fsys fs.FS, identities ...age.Identity) (*Repository, error) {
	r := &Repository{fsys: fsys, places: map[ID]place{}, usable: map[ID]bool{}}
	object, err := r.Object("config")
	if err != nil {
		return nil, err
	}
	if r.Config, err = parseConfig(object); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := r.list(); err != nil {
		return nil, err
	}
	if err := r.openBundle(identities); err != nil {
		return nil, err
	}
	if r.Bundle.Repository != r.Config.ID {
		return nil, damaged("bundle of the repository %s in %s", r.Bundle.Repository, r.Config.ID)
	}
	if r.run, err = r.NewestRun(); err != nil {
		return nil, err
	}
	return r, r.readIndex()
}

// Object is a whole object. Its name must have come from the page or from Names.
func (r *Repository) Object(name string) ([]byte, error) {
	return fs.ReadFile(r.fsys, name)
}

// Names are the objects whose name begins with prefix, in ascending order.
func (r *Repository) Names(prefix string) []string {
	var names []string
	for _, name := range r.names {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

func (r *Repository) has(name string) bool {
	for _, n := range r.names {
		if n == name {
			return true
		}
	}
	return false
}

// list is section 11.3: a file with no valid name is no object.
func (r *Repository) list() error {
	return fs.WalkDir(r.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && isName(name) {
			r.names = append(r.names, name)
		}
		return err
	})
}

// isName is section 11.1.
func isName(name string) bool {
	if len(name) > 700 {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) < 1 || len(part) > 200 || part[0] == '.' {
			return false
		}
		for _, c := range part {
			switch {
			case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
			default:
				return false
			}
		}
	}
	return true
}

func parseConfig(object []byte) (Config, error) {
	var c Config
	lines := bytes.SplitAfter(object, []byte("\n"))
	if len(lines) != 3 || len(lines[2]) > 0 {
		return c, damaged("not two lines")
	}
	line := bytes.TrimSuffix(lines[0], []byte("\n"))
	if sum := sha256.Sum256(line); string(lines[1]) != "sha256:"+hex.EncodeToString(sum[:])+"\n" {
		return c, damaged("its SHA-256 is %x", sum)
	}
	if !bytes.HasPrefix(line, []byte(`{"pgtrove_repository":`)) {
		return c, damaged("the version is not first")
	}
	if err := versioned(line, "pgtrove_repository", &c); err != nil {
		return c, err
	}
	if len(c.ID) != 32 || !isHex(c.ID) || c.Params.PackSize < 1<<16 || c.Params.PackSize > 1<<30 {
		return c, damaged("repository ID %q, packs of %d bytes", c.ID, c.Params.PackSize)
	}
	return c, nil
}

func (r *Repository) openBundle(identities []age.Identity) error {
	for _, name := range r.Names("keys/") {
		file, err := r.Object(name)
		if err != nil {
			return err
		}
		var other *age.NoIdentityMatchError
		if r.Bundle, err = OpenBundle(file, identities...); err == nil {
			return nil
		} else if !errors.As(err, &other) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return errors.New("no bundle that the identities open")
}

// payload opens an object of section 7.1.
func (r *Repository) payload(kind, name string) ([]byte, error) {
	object, err := r.Object(name)
	if err != nil {
		return nil, err
	}
	plain, err := r.Bundle.openSealed(kind, name, object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return plain, nil
}

func (b *Bundle) openSealed(kind, name string, object []byte) ([]byte, error) {
	if len(object) < 8 || string(object[:7]) != kind {
		return nil, damaged("not of the kind %s", kind)
	}
	if object[7] != 1 {
		return nil, fmt.Errorf("%w: %s of version %d", ErrVersion, kind, object[7])
	}
	aad := strings.Join([]string{"pgtrove object", string(object[:8]), b.Repository, name}, "\x00")
	return b.openMeta(object[8:], aad)
}

// Session is section 7.2.
type Session struct {
	Version int
	Cluster string
	Host    string
	PID     int
	Started time.Time
	GC      uint64
	Repack  bool
	Nonce   string
}

// Session reads the announcement of a session.
func (r *Repository) Session(sid string) (Session, error) {
	var s Session
	plain, err := r.payload("pgtsess", "sessions/"+sid)
	if err != nil {
		return s, err
	}
	return s, versioned(plain, "version", &s)
}

// Outcome is section 7.3.
type Outcome struct {
	Version  int
	Outcome  string
	Nonce    string
	Manifest *Manifest
}

// Outcome reads how the session of the name ended.
func (r *Repository) Outcome(name string) (Outcome, error) {
	var o Outcome
	plain, err := r.payload("pgtsnap", name)
	if err != nil {
		return o, err
	}
	if err := versioned(plain, "version", &o); err != nil {
		return o, fmt.Errorf("%s: %w", name, err)
	}
	switch o.Outcome {
	case "SNAPSHOT":
		if o.Manifest == nil || path.Join("snapshots", o.Manifest.Cluster, o.Manifest.ID) != name {
			return o, damaged("%s: a snapshot without a manifest of its own", name)
		}
		if err := o.Manifest.check(); err != nil {
			return o, fmt.Errorf("%s: %w", name, err)
		}
	case "FENCED", "ABORTED", "REPACKED":
	default:
		return o, damaged("%s: outcome %q", name, o.Outcome)
	}
	return o, nil
}

// Snapshots are the manifests that count and are not hidden.
func (r *Repository) Snapshots() ([]*Manifest, error) {
	var found []*Manifest
	for _, name := range r.Names("snapshots/") {
		o, err := r.Outcome(name)
		if err != nil {
			return nil, err
		}
		if counts, hidden := r.Counts(path.Base(name)); o.Manifest != nil && counts && !hidden {
			found = append(found, o.Manifest)
		}
	}
	return found, nil
}

// segmentPack is a pack as an index segment has it.
type segmentPack struct {
	Key       string
	Size      uint64
	Raw       []byte
	Directory *Directory
}

// parseSegment is section 8.
func parseSegment(plain []byte) ([]segmentPack, error) {
	if len(plain) > 1<<28 {
		return nil, damaged("index segment of %d bytes", len(plain))
	}
	c := cursor{b: plain}
	c.version("index segment")
	var packs []segmentPack
	seen := map[string]bool{}
	for range c.count("packs", 0, 65536, 3) {
		p := segmentPack{Key: c.text("key", 1, 700), Size: c.limited("size", 0, 1<<32-1), Raw: c.bytes("directory", 0, 1<<28)}
		if c.err != nil {
			break
		}
		if !isName(p.Key) || seen[p.Key] {
			c.fail("key %q", p.Key)
		}
		seen[p.Key] = true
		var err error
		if p.Directory, err = parseDirectory(p.Raw); err != nil {
			return nil, fmt.Errorf("index segment: %s: %w", p.Key, err)
		}
		if p.Directory.Kind == kindArchive || p.Directory.end() > p.Size {
			c.fail("%s of kind %d with %d bytes", p.Key, p.Directory.Kind, p.Size)
		}
		packs = append(packs, p)
	}
	return packs, c.end("index segment")
}

// Segment reads an index segment.
func (r *Repository) Segment(name string) ([]segmentPack, error) {
	plain, err := r.payload("pgtindx", name)
	if err != nil {
		return nil, err
	}
	packs, err := parseSegment(plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return packs, nil
}

// readIndex takes the places of all chunks from the segments that count
// (section 7.10).
func (r *Repository) readIndex() error {
	names, write, err := r.segments()
	if err != nil {
		return err
	}
	barred := map[string]bool{}
	if r.run != nil {
		for _, key := range append(append([]string(nil), r.run.Sweep...), r.run.Condemned...) {
			barred[key] = true
		}
	}
	for _, name := range names {
		packs, err := r.Segment(name)
		if err != nil {
			return err
		}
		for _, p := range packs {
			for i, e := range p.Directory.Chunks {
				if r.has(p.Key) {
					r.places[e.ID] = place{p.Key, p.Directory, i}
				}
				if write[name] && !barred[p.Key] {
					r.usable[e.ID] = true
				}
			}
		}
	}
	return nil
}

// Chunk opens a chunk from where the index says that it is.
func (r *Repository) Chunk(id ID) (Chunk, []byte, error) {
	at, ok := r.places[id]
	if !ok {
		return Chunk{}, nil, damaged("no chunk %s", id)
	}
	object, err := r.Object(at.key)
	if err != nil {
		return Chunk{}, nil, err
	}
	e := at.directory.Chunks[at.i]
	if e.Offset+e.Sealed > uint64(len(object)) {
		return e, nil, damaged("%s ends before chunk %d", at.key, at.i)
	}
	plain, _, err := r.Bundle.openChunk(at.directory, at.i, object[e.Offset:e.Offset+e.Sealed])
	if err != nil {
		return e, nil, fmt.Errorf("%s: %w", at.key, err)
	}
	return e, plain, nil
}
