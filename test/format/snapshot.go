package format

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Manifest is section 9.1.
type Manifest struct {
	Version int
	ID      string
	Cluster string
	Server  struct {
		SystemID       string `json:"system_id"`
		Version        int
		BlockSize      int `json:"block_size"`
		WALSegmentSize int `json:"wal_segment_size"`
		Checksums      bool
		DataDirectory  string `json:"data_directory"`
	}
	Origin struct {
		Host    string
		Tool    string
		Standby bool
	}
	Window struct {
		Timeline     uint32
		StopTimeline uint32    `json:"stop_timeline"`
		StartLSN     string    `json:"start_lsn"`
		StopLSN      string    `json:"stop_lsn"`
		StartTime    time.Time `json:"start_time"`
		StopTime     time.Time `json:"stop_time"`
		NextXID      uint64    `json:"next_xid"`
	}
	Totals struct {
		Size, Read, New, Added, Files int64
	}
	Tags          map[string]string
	WAL           string
	Damaged       []DamagedPage
	BackupLabel   []byte `json:"backup_label"`
	TablespaceMap []byte `json:"tablespace_map"`
	Root          struct {
		Depth  int
		Chunks []ID
	}

	group string // trust group
}

func (m *Manifest) check() error {
	power := func(n int) bool { return n > 0 && n&(n-1) == 0 }
	start, ok1 := parseLSN(m.Window.StartLSN)
	stop, ok2 := parseLSN(m.Window.StopLSN)
	switch segment := m.Server.WALSegmentSize; {
	case m.Version != 1:
		return fmt.Errorf("%w: manifest of version %d", ErrVersion, m.Version)
	case !power(m.Server.BlockSize) || !power(segment) || segment < 1<<20 || segment > 1<<30:
		return damaged("blocks of %d bytes, segments of %d", m.Server.BlockSize, segment)
	case !ok1 || !ok2 || stop < start:
		return damaged("WAL from %s to %s", m.Window.StartLSN, m.Window.StopLSN)
	case m.WAL != "complete" && m.WAL != "missing" && m.WAL != "unproven":
		return damaged("WAL %q", m.WAL)
	case len(m.BackupLabel) == 0:
		return damaged("no backup_label")
	case m.Root.Depth < 0 || m.Root.Depth > 8 || len(m.Root.Chunks) == 0:
		return damaged("listing of depth %d in %d chunks", m.Root.Depth, len(m.Root.Chunks))
	}
	return nil
}

func parseLSN(s string) (lsn uint64, ok bool) {
	high, low, _ := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	return h<<32 | l, err1 == nil && err2 == nil
}

// DamagedPage is a page that was wrong in the source.
type DamagedPage struct {
	Path             string
	Block            uint32
	Stored, Computed uint16
}

// The types of entries of a listing (section 9.2).
const (
	typeDirectory  = 1
	typeFile       = 2
	typeLink       = 3
	typeTablespace = 4
)

const (
	mostEntry = 1 << 20 // bytes
	mostPath  = 8192    // bytes
)

// Entry is one entry of a listing.
type Entry struct {
	Path          string
	Type          byte
	Mode          uint64
	UID, GID      uint64
	User, Group   string
	Size          uint64
	Modified      int64 // nanoseconds since 1970
	Changed       int64 // nanoseconds since 1970
	Device, Inode uint64
	Target        string
	recipe        reference
}

// reference is where a recipe is: in it, or in metadata chunks.
type reference struct {
	kind   byte
	inline []byte
	chunks []ID
}

func (c *cursor) reference() reference {
	r := reference{kind: c.u8()}
	switch r.kind {
	case 0:
	case 1:
		r.inline = c.bytes("inline recipe", 1, mostEntry)
	case 2:
		r.chunks = c.ids("chunks of a recipe", 1, 4096)
	default:
		c.fail("reference of kind %d", r.kind)
	}
	return r
}

func parseListing(plain []byte) ([]Entry, error) {
	var entries []Entry
	all := cursor{b: plain}
	for all.err == nil && len(all.b) > 0 {
		c := cursor{b: all.bytes("entry", 0, mostEntry)}
		e := Entry{
			Path: c.text("path", 1, mostPath), Type: c.u8(), Mode: c.limited("mode", 0, 0o7777),
			UID: c.limited("user ID", 0, math.MaxUint32), GID: c.limited("group ID", 0, math.MaxUint32),
			User: c.text("user", 0, 256), Group: c.text("group", 0, 256),
			Size: c.limited("size", 0, math.MaxInt64), Modified: c.svarint(), Changed: c.svarint(), Device: c.uvarint(), Inode: c.uvarint(),
			Target: c.text("target", 0, mostPath), recipe: c.reference(),
		}
		switch {
		case c.err != nil:
		case !isPath(e.Path):
			c.fail("path %q", e.Path)
		case len(entries) > 0 && e.Path <= entries[len(entries)-1].Path:
			c.fail("%q behind %q", e.Path, entries[len(entries)-1].Path)
		case e.Type < typeDirectory || e.Type > typeTablespace:
			c.fail("%q of type %d", e.Path, e.Type)
		case e.Type == typeFile && (e.Size == 0) != (e.recipe.kind == 0):
			c.fail("%q of %d bytes with a reference of kind %d", e.Path, e.Size, e.recipe.kind)
		case e.Type != typeFile && (e.Size != 0 || e.recipe.kind != 0):
			c.fail("%q is no file and has contents", e.Path)
		}
		if err := c.end("entry"); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, all.end("listing")
}

func isPath(p string) bool {
	if first, _, _ := strings.Cut(p, "/"); first != "data" && first != "config" || strings.Contains(p, "\x00") {
		return false
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// meta is the concatenation of metadata chunks.
func (r *Repository) meta(ids []ID) ([]byte, error) {
	var all []byte
	for _, id := range ids {
		if kind := r.places[r.Bundle.Group][id].directory; kind != nil && kind.Kind != kindMeta {
			return nil, damaged("%s is no metadata", id)
		}
		_, plain, err := r.Chunk(id)
		if err != nil {
			return nil, err
		}
		all = append(all, plain...)
	}
	return all, nil
}

// Listing reads the listing of a snapshot of the bundle's trust group; Of gives the others'.
func (r *Repository) Listing(m *Manifest) ([]Entry, error) {
	ids := m.Root.Chunks
	for range m.Root.Depth {
		plain, err := r.meta(ids)
		if err != nil {
			return nil, err
		}
		if len(plain)%32 != 0 {
			return nil, damaged("list of IDs of %d bytes", len(plain))
		}
		ids = make([]ID, len(plain)/32)
		for i := range ids {
			copy(ids[i][:], plain[32*i:])
		}
	}
	plain, err := r.meta(ids)
	if err != nil {
		return nil, err
	}
	return parseListing(plain)
}

// File rebuilds a file of a listing.
func (r *Repository) File(e Entry) ([]byte, error) {
	if e.recipe.kind == 0 {
		return nil, nil
	}
	recipe, err := r.recipe(e.recipe)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	content, err := r.rebuild(recipe)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	if uint64(len(content)) != e.Size {
		return nil, damaged("%s: %d bytes, not %d", e.Path, len(content), e.Size)
	}
	return content, nil
}

func (r *Repository) rebuild(recipe *Recipe) ([]byte, error) {
	var content []byte
	if recipe.Kind == recipeStream {
		for _, piece := range recipe.pieces {
			e, plain, err := r.Chunk(piece.id)
			if err != nil {
				return nil, err
			}
			if e.Form != 0 || e.Plain != piece.length {
				return nil, damaged("chunk %s: form %d, %d bytes, not %d", e.ID, e.Form, e.Plain, piece.length)
			}
			content = append(content, plain...)
		}
		return content, nil
	}
	pages, err := r.pages(recipe)
	if err != nil {
		return nil, err
	}
	var e Chunk
	var plain []byte
	for _, p := range pages {
		if p.zero {
			content = append(content, make([]byte, 1<<recipe.form)...)
			continue
		}
		if plain == nil || e.ID != p.chunk {
			if e, plain, err = r.Chunk(p.chunk); err != nil {
				return nil, err
			}
		}
		if e.Form != recipe.form || p.at >= e.Plain>>e.Form {
			return nil, damaged("page %d of chunk %s: form %d, %d bytes", p.at, e.ID, e.Form, e.Plain)
		}
		content = append(content, plain[p.at<<e.Form:(p.at+1)<<e.Form]...)
	}
	return content, nil
}

// Recipe is section 9.3.
type Recipe struct {
	Kind   byte
	pieces []piece
	form   byte
	pages  []page // of a relation file
	patch  *patch
}

// The kinds of recipes.
const (
	recipeStream   = 1
	recipeRelation = 2
	recipePatch    = 3
)

type piece struct {
	id     ID
	length uint64
}

// page is where one page of a file is.
type page struct {
	zero  bool
	chunk ID
	at    uint64
}

type patch struct {
	depth   uint64
	parent  reference
	pages   uint64
	changes []change
}

type change struct {
	keep  uint64
	pages []page
}

func (r *Repository) recipe(ref reference) (*Recipe, error) {
	switch ref.kind {
	case 1:
		return parseRecipe(ref.inline)
	case 2:
		plain, err := r.meta(ref.chunks)
		if err != nil {
			return nil, err
		}
		return parseRecipe(plain)
	}
	return nil, damaged("no recipe")
}

// mostPages keeps the pages that a recipe promises in memory: PostgreSQL's
// segments of relations have 1 GiB, 2^17 pages of 8 KiB.
const mostPages = 1 << 20

func parseRecipe(plain []byte) (*Recipe, error) {
	c := cursor{b: plain}
	r := &Recipe{Kind: c.u8()}
	switch r.Kind {
	case recipeStream:
		for range c.count("pieces", 0, math.MaxUint64, 33) {
			r.pieces = append(r.pieces, piece{c.id(), c.limited("length", 1, mostPlain)})
		}
	case recipeRelation:
		r.form = c.form()
		t := table{ids: c.ids("chunks", 0, math.MaxUint64)}
		r.pages = t.extents(&c)
	case recipePatch:
		r.form = c.form()
		p := &patch{depth: c.limited("depth", 1, 16), parent: c.reference(), pages: c.limited("pages", 0, mostPages)}
		t := table{ids: c.ids("chunks", 0, math.MaxUint64)}
		for range c.count("changes", 0, math.MaxUint64, 2) {
			p.changes = append(p.changes, change{c.uvarint(), t.extents(&c)})
		}
		r.patch = p
	default:
		c.fail("recipe of kind %d", r.Kind)
	}
	return r, c.end("recipe")
}

func (c *cursor) form() byte {
	form := c.u8()
	if form < 10 || form > 16 {
		c.fail("form %d", form)
	}
	return form
}

// table is the table of chunks of a recipe and the number of the chunk that is
// expected next.
type table struct {
	ids  []ID
	next int64
}

func (t *table) extents(c *cursor) []page {
	var pages []page
	for range c.count("extents", 0, math.MaxUint64, 1) {
		v := c.uvarint()
		n := v >> 1
		if n == 0 || n > mostPages-uint64(len(pages)) {
			c.fail("%d more pages", n)
		}
		if v&1 == 1 && c.err == nil {
			for range n {
				pages = append(pages, page{zero: true})
			}
			continue
		}
		number, from := t.next+c.svarint(), c.uvarint()
		if c.err == nil && (number < 0 || number >= int64(len(t.ids)) || from > mostPages) {
			c.fail("pages from %d of chunk %d of %d", from, number, len(t.ids))
		}
		if c.err != nil {
			return nil
		}
		t.next = number + 1
		for i := range n {
			pages = append(pages, page{chunk: t.ids[number], at: from + i})
		}
	}
	return pages
}

// pages are those of a relation file, or of a patch and its parents.
func (r *Repository) pages(recipe *Recipe) ([]page, error) {
	if recipe.Kind == recipeRelation {
		return recipe.pages, nil
	}
	p := recipe.patch
	parent, err := r.recipe(p.parent)
	if err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	if parent.Kind != recipeRelation && (parent.Kind != recipePatch || parent.patch.depth >= p.depth) || parent.form != recipe.form {
		return nil, damaged("a parent of kind %d and form %d", parent.Kind, parent.form)
	}
	old, err := r.pages(parent)
	if err != nil {
		return nil, err
	}
	var pages []page
	keep := func(n uint64) error {
		at := uint64(len(pages))
		if n > 0 && (at > uint64(len(old)) || n > uint64(len(old))-at) {
			return damaged("pages %d to %d of a parent of %d", at, at+n, len(old))
		}
		if n > 0 {
			pages = append(pages, old[at:at+n]...)
		}
		return nil
	}
	for _, ch := range p.changes {
		if err := keep(ch.keep); err != nil {
			return nil, err
		}
		pages = append(pages, ch.pages...)
	}
	if uint64(len(pages)) > p.pages {
		return nil, damaged("%d pages, not %d", len(pages), p.pages)
	}
	if err := keep(p.pages - uint64(len(pages))); err != nil {
		return nil, err
	}
	return pages, nil
}
