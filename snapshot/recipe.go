package snapshot

import (
	"encoding/binary"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
)

// MaxPatchDepth is how many patches may stand on one another before a full recipe.
const MaxPatchDepth = 16

// maxCount bounds the number of pages or bytes in one file's recipe.
const maxCount = 1 << 46

// recipe kinds
const (
	recipeBytes = 1 // a byte stream, in order
	recipePages = 2 // a relation file, in full
	recipePatch = 3 // a relation file, as changed page runs upon a parent recipe
)

// Extent is a run of a file that comes from one chunk, or from none where all its pages are zero.
//
// In a byte stream (Form 0) First and Count are bytes, and an extent is always a whole chunk: First is 0. In a
// relation file they are pages of Form's size: Count pages of the chunk from its page First on.
type Extent struct {
	ID    chunk.ID // undefined where Zero
	Form  chunk.Form
	First uint32
	Count uint32
	Zero  bool
}

// Bytes returns how many bytes of the file the extent covers.
func (e Extent) Bytes() int64 {
	if e.Form == 0 {
		return int64(e.Count)
	}
	return int64(e.Count) << e.Form
}

// Offset returns where in its plain chunk the extent begins, in bytes.
func (e Extent) Offset() int64 { return int64(e.First) << e.Form }

// Recipe is a recipe as it is stored. Most callers want LoadRecipe's extents instead.
type Recipe struct {
	kind    byte
	form    chunk.Form
	extents []Extent  // unless it is a patch
	parent  RecipeRef // of a patch
	depth   int       // of a patch: how many patches it stands on, itself included
	pages   uint64    // of a patch: length of the file
	changes []Change
}

// MarshalExtents returns the full recipe of a file made of extents, all of one form. No extents give nil.
func MarshalExtents(extents []Extent) []byte {
	if len(extents) == 0 {
		return nil
	}
	form := extents[0].Form
	if form == 0 {
		b := binary.AppendUvarint([]byte{recipeBytes}, uint64(len(extents)))
		for i := range extents {
			b = append(b, extents[i].ID[:]...)
			b = binary.AppendUvarint(b, uint64(extents[i].Count))
		}
		return b
	}
	table, index := chunkTable(extents)
	b := appendTable([]byte{recipePages, byte(form)}, table)
	b = binary.AppendUvarint(b, uint64(len(extents)))
	next := 0
	for i := range extents {
		b, next = appendExtent(b, &extents[i], index[i], next)
	}
	return b
}

// Patch is a recipe that says only what is different from a parent recipe.
type Patch struct {
	Form    chunk.Form
	Parent  RecipeRef
	Depth   int    // patches between this and the full recipe, itself included: 1 to MaxPatchDepth
	Pages   uint64 // of the file
	Changes []Change
}

// Change puts Extents in the place of as many pages of the parent, after Keep more of the parent's pages.
type Change struct {
	Keep    uint64
	Extents []Extent
}

// MarshalPatch returns the stored form of a patch. What lies behind the last change is the parent's, up to Pages.
func MarshalPatch(p Patch) []byte {
	var all []Extent
	for _, c := range p.Changes {
		all = append(all, c.Extents...)
	}
	table, index := chunkTable(all)
	b := append([]byte{recipePatch, byte(p.Form)}, byte(p.Depth))
	b = appendRef(b, p.Parent)
	b = binary.AppendUvarint(b, p.Pages)
	b = appendTable(b, table)
	b = binary.AppendUvarint(b, uint64(len(p.Changes)))
	next := 0
	for _, c := range p.Changes {
		b = binary.AppendUvarint(b, c.Keep)
		b = binary.AppendUvarint(b, uint64(len(c.Extents)))
		for i := range c.Extents {
			b, next = appendExtent(b, &c.Extents[i], index[0], next)
			index = index[1:]
		}
	}
	return b
}

// chunkTable lists the distinct chunks of extents in order of first use, and for each extent its place there.
func chunkTable(extents []Extent) (table []chunk.ID, index []int) {
	seen := make(map[chunk.ID]int, len(extents))
	index = make([]int, len(extents))
	for i := range extents {
		if extents[i].Zero {
			continue
		}
		at, ok := seen[extents[i].ID]
		if !ok {
			at = len(table)
			seen[extents[i].ID] = at
			table = append(table, extents[i].ID)
		}
		index[i] = at
	}
	return table, index
}

func appendTable(b []byte, table []chunk.ID) []byte {
	b = binary.AppendUvarint(b, uint64(len(table)))
	for i := range table {
		b = append(b, table[i][:]...)
	}
	return b
}

// appendExtent writes one extent of pages: its length and whether it is zero; if not, its chunk as a difference to
// the one expected (the one after the last extent's) and its first page there.
func appendExtent(b []byte, e *Extent, index, next int) ([]byte, int) {
	head := uint64(e.Count) << 1
	if e.Zero {
		return binary.AppendUvarint(b, head|1), next
	}
	b = binary.AppendUvarint(b, head)
	b = binary.AppendVarint(b, int64(index-next))
	b = binary.AppendUvarint(b, uint64(e.First))
	return b, index + 1
}

// ParseRecipe reads a stored recipe of any kind.
func ParseRecipe(b []byte) (*Recipe, error) {
	d := decoder{b: b}
	r := &Recipe{kind: d.byte()}
	switch r.kind {
	case recipeBytes:
		r.parseBytes(&d)
	case recipePages:
		r.form = d.form()
		table := d.ids(d.uvarint(maxCount))
		n := d.uvarint(uint64(len(d.b)))
		next := 0
		for i := uint64(0); i < n && !d.bad; i++ {
			r.extents, next = parseExtent(&d, r.form, r.extents, table, next)
		}
	case recipePatch:
		r.parsePatch(&d)
	default:
		return nil, fmt.Errorf("%w: recipe of kind %d", ErrInvalid, r.kind)
	}
	if err := d.finish("recipe"); err != nil {
		return nil, err
	}
	if r.kind != recipePatch && len(r.extents) == 0 {
		return nil, fmt.Errorf("%w: recipe without extents; an empty file has no recipe", ErrInvalid)
	}
	return r, nil
}

func (d *decoder) form() chunk.Form {
	f := chunk.Form(d.byte())
	if f < 10 || f > 16 {
		d.fail()
	}
	return f
}

func (r *Recipe) parseBytes(d *decoder) {
	n := d.uvarint(uint64(len(d.b)) / 33)
	for i := uint64(0); i < n && !d.bad; i++ {
		e := Extent{ID: d.id(), Count: uint32(d.uvarint(1<<32 - 1))}
		if e.Count == 0 {
			d.fail()
		}
		r.extents = append(r.extents, e)
	}
}

// parseExtent reads what appendExtent wrote, appends it to dst and returns the chunk expected next.
func parseExtent(d *decoder, form chunk.Form, dst []Extent, table []chunk.ID, next int) ([]Extent, int) {
	head := d.uvarint(1<<33 - 1)
	e := Extent{Form: form, Count: uint32(head >> 1), Zero: head&1 == 1}
	if e.Count == 0 {
		d.fail()
	}
	if !e.Zero {
		at := int64(next) + d.varint()
		if at < 0 || at >= int64(len(table)) {
			d.fail()
			return dst, next
		}
		e.ID = table[at]
		e.First = uint32(d.uvarint(1<<32 - 1))
		next = int(at) + 1
	}
	return append(dst, e), next
}

func (r *Recipe) parsePatch(d *decoder) {
	r.form = d.form()
	r.depth = int(d.uvarint(MaxPatchDepth))
	r.parent = d.ref()
	r.pages = d.uvarint(maxCount)
	table := d.ids(d.uvarint(maxCount))
	n := d.uvarint(uint64(len(d.b)))
	next := 0
	for i := uint64(0); i < n && !d.bad; i++ {
		c := Change{Keep: d.uvarint(maxCount)}
		count := d.uvarint(uint64(len(d.b)))
		for j := uint64(0); j < count && !d.bad; j++ {
			c.Extents, next = parseExtent(d, r.form, c.Extents, table, next)
		}
		r.changes = append(r.changes, c)
	}
	if r.depth == 0 || r.parent.Empty() {
		d.fail()
	}
}

// patchExtents lays changes over the parent's extents: of each, Keep pages of the parent are taken first, then its own
// extents stand in for as many of the parent's. What follows the last is the parent's, up to pages.
func patchExtents(form chunk.Form, parent []Extent, changes []Change, pages uint64) ([]Extent, error) {
	c := cursor{extents: parent}
	out := make([]Extent, 0, len(parent)+2*len(changes))
	var done uint64
	for i := range changes {
		out = c.copy(out, changes[i].Keep)
		done += changes[i].Keep
		for _, e := range changes[i].Extents {
			out = append(out, e)
			c.skip(uint64(e.Count))
			done += uint64(e.Count)
		}
	}
	if done > pages {
		return nil, fmt.Errorf("%w: patch of %d pages holds %d", ErrInvalid, pages, done)
	}
	out = c.copy(out, pages-done)
	if c.short {
		return nil, fmt.Errorf("%w: patch keeps pages that its parent does not have", ErrInvalid)
	}
	for i := range out {
		if out[i].Form != form {
			return nil, fmt.Errorf("%w: patch and parent differ in page size", ErrInvalid)
		}
	}
	return out, nil
}

// cursor walks extents of pages by page numbers.
type cursor struct {
	extents []Extent
	used    uint32 // pages of extents[0] already behind us
	short   bool   // copy asked for more than there is
}

func (c *cursor) copy(out []Extent, pages uint64) []Extent {
	for pages > 0 {
		if len(c.extents) == 0 {
			c.short = true
			return out
		}
		e := c.extents[0]
		n := min(uint64(e.Count-c.used), pages)
		piece := Extent{ID: e.ID, Form: e.Form, First: e.First + c.used, Count: uint32(n), Zero: e.Zero}
		if e.Zero {
			piece.First = 0
		}
		out = append(out, piece)
		c.advance(uint32(n))
		pages -= n
	}
	return out
}

// skip passes pages by; those beyond the end are the file's growth.
func (c *cursor) skip(pages uint64) {
	for pages > 0 && len(c.extents) > 0 {
		n := min(uint64(c.extents[0].Count-c.used), pages)
		c.advance(uint32(n))
		pages -= n
	}
}

func (c *cursor) advance(n uint32) {
	c.used += n
	if c.used == c.extents[0].Count {
		c.extents, c.used = c.extents[1:], 0
	}
}
