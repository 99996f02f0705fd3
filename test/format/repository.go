package format

import (
	"bytes"
	"crypto/ed25519"
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
	run    *Run                    // the newest; nil: there is none
	places map[string]map[ID]place // by trust group
	usable map[string]map[ID]bool  // by a writer, likewise

	holders map[string]*KeyRecord // by entry: who has the keys that are not removed
	removed map[string]*KeyRecord // by entry
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

// Open reads the config and the bundle that the identities open, the
// names of all objects, and the index.
func Open(fsys fs.FS, identities ...age.Identity) (*Repository, error) {
	return OpenPinned(fsys, nil, identities...)
}

// OpenPinned is Open where the public half of the root key is known.
func OpenPinned(fsys fs.FS, root ed25519.PublicKey, identities ...age.Identity) (*Repository, error) {
	r := &Repository{fsys: fsys, places: map[string]map[ID]place{}, usable: map[string]map[ID]bool{}}
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
	if err := r.openBundle(root, identities); err != nil {
		return nil, err
	}
	if err := r.readKeys(); err != nil {
		return nil, err
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

// payload opens an object of section 7.1.
func (r *Repository) payload(kind, name string) ([]byte, error) {
	o, err := r.sealed(kind, name)
	return o.payload, err
}

// sealed is payload, and says whose certificate the object bears.
func (r *Repository) sealed(kind, name string) (sealedObject, error) {
	object, err := r.Object(name)
	if err != nil {
		return sealedObject{}, err
	}
	o, err := r.Bundle.open(kind, name, object)
	if err != nil {
		return o, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

// sealedObject is what an object of section 7.1 says.
type sealedObject struct {
	payload []byte
	group   string       // whose key it is sealed with; allGroups: that of all
	by      *Certificate // nil: it is of a kind or a version that nobody signs
	sum     [32]byte     // SHA-256 of the object
}

func (b *Bundle) openSealed(kind, name string, object []byte) ([]byte, error) {
	o, err := b.open(kind, name, object)
	return o.payload, err
}

func (b *Bundle) open(kind, name string, object []byte) (o sealedObject, err error) {
	if len(object) < 8 || string(object[:7]) != kind {
		return o, damaged("not of the kind %s", kind)
	}
	version, signed := object[7], kind == "pgtindx" || kind == "pgtsnap"
	switch {
	case version != 1 && version != 2:
		return o, fmt.Errorf("%w: %s of version %d", ErrVersion, kind, version)
	case version == 1 && b.Root != nil && signed:
		return o, fmt.Errorf("%w: %w: it is unsigned", ErrDamaged, ErrOrigin)
	case (version == 2) != (b.Root != nil):
		return o, damaged("%s of version %d in a repository of bundles of version %d", kind, version, b.Version)
	case len(object) < 16 && version == 2:
		return o, damaged("%d bytes", len(object))
	}
	o.sum = sha256.Sum256(object)
	head := 8 * int(version)
	aad := strings.Join([]string{"pgtrove object", string(object[:head]), b.Repository, name}, "\x00")
	if version == 1 {
		o.payload, err = b.openMeta(object[head:], aad)
		return o, err
	}
	if o.payload, o.group, err = b.openTagged(object[8:16], object[head:], aad); err != nil || !signed {
		return o, err
	}
	if kind == "pgtindx" && o.group == allGroups {
		return o, damaged("an index segment of no trust group")
	}
	o.by, o.payload, err = b.openSigned(o.payload, aad)
	return o, err
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

	by    *Certificate
	group string
	sum   [32]byte
}

// Outcome reads how the session of the name ended.
func (r *Repository) Outcome(name string) (Outcome, error) {
	var o Outcome
	object, err := r.sealed("pgtsnap", name)
	if err != nil {
		return o, err
	}
	if err := versioned(object.payload, "version", &o); err != nil {
		return o, fmt.Errorf("%s: %w", name, err)
	}
	o.by, o.group, o.sum = object.by, object.group, object.sum
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

// Snapshots are the manifests that count, are not hidden and not refused.
func (r *Repository) Snapshots() ([]*Manifest, error) {
	found, _, err := r.Judged()
	return found, err
}

// Judged is Snapshots, and says why others are refused, by their names.
func (r *Repository) Judged() (found []*Manifest, refused map[string]string, err error) {
	refused = map[string]string{}
	for _, name := range r.Names("snapshots/") {
		o, err := r.Outcome(name)
		counts, hidden := r.Counts(path.Base(name))
		switch {
		case !counts || hidden || errors.Is(err, ErrForeign):
		case errors.Is(err, ErrOrigin):
			refused[name] = "origin"
		case err != nil:
			return nil, nil, err
		case o.Manifest != nil:
			o.Manifest.group = o.group
			if why := r.refuses(name, &o); why != "" {
				refused[name] = why
			} else {
				found = append(found, o.Manifest)
			}
		}
	}
	return found, refused, nil
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
	packs, _, err := r.sealedSegment(name)
	return packs, err
}

func (r *Repository) sealedSegment(name string) ([]segmentPack, sealedObject, error) {
	o, err := r.sealed("pgtindx", name)
	if err != nil {
		return nil, o, err
	}
	packs, err := parseSegment(o.payload)
	if err != nil {
		return nil, o, fmt.Errorf("%s: %w", name, err)
	}
	return packs, o, nil
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
	for _, g := range r.Bundle.groups() {
		r.places[g.Name], r.usable[g.Name] = map[ID]place{}, map[ID]bool{}
	}
	for _, name := range names {
		packs, o, err := r.sealedSegment(name)
		if errors.Is(err, ErrForeign) || errors.Is(err, ErrOrigin) || errors.Is(err, ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			continue // the rest is no worse for it
		}
		if err != nil {
			return err
		}
		if o.by != nil && r.removed[o.by.Entry] != nil && strings.HasPrefix(name, "index/") {
			write[name] = false
		}
		for _, p := range packs {
			for i, e := range p.Directory.Chunks {
				if r.has(p.Key) {
					r.places[o.group][e.ID] = place{p.Key, p.Directory, i}
				}
				if write[name] && !barred[p.Key] {
					r.usable[o.group][e.ID] = true
				}
			}
		}
	}
	return nil
}

// Of is the repository as it is for who is in the snapshot's trust group.
func (r *Repository) Of(m *Manifest) *Repository {
	for _, g := range r.Bundle.groups() {
		if g.Name == m.group {
			o := *r
			o.Bundle = r.Bundle.of(g)
			return &o
		}
	}
	return r
}

// Chunk opens a chunk of the bundle's group from where the index says that it is.
func (r *Repository) Chunk(id ID) (Chunk, []byte, error) {
	at, ok := r.places[r.Bundle.Group][id]
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
