// Package format reads a repository as docs/format.md describes it, and in no
// other way: it was written from that page and imports no package of the
// project, so that the page is known to be enough. It never writes, and is as
// plain as it can be: it holds whole objects in memory and keeps no cache. Its
// tests read the golden files under testdata with it, and hold today's code
// against the same files.
package format

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

var (
	// ErrDamaged: the bytes break a rule of the page; nothing of them is used.
	ErrDamaged = errors.New("damaged")
	// ErrVersion: the bytes are of a version that the page does not describe.
	ErrVersion = errors.New("unknown version")
	// ErrOrigin: nobody whom the root key certifies stands behind it.
	ErrOrigin = errors.New("of unknown origin")
	// ErrForeign: it is another trust group's.
	ErrForeign = errors.New("of another trust group")
	// ErrRole: the bundle lacks the secret that would open this.
	ErrRole = errors.New("the bundle's role does not open this")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// cursor takes the values of section 1 from the front of b. The first failure
// stays in err, and all values after it are zero.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = damaged(format, args...)
	}
	c.b = nil
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.fail("%d bytes wanted, %d left", n, len(c.b))
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) u8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail("no uvarint")
		return 0
	}
	if n > 1 && c.b[n-1] == 0 {
		c.fail("uvarint is not the shortest")
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) svarint() int64 {
	u := c.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// limited is a uvarint from low to high.
func (c *cursor) limited(what string, low, high uint64) uint64 {
	v := c.uvarint()
	if c.err == nil && (v < low || v > high) {
		c.fail("%s is %d", what, v)
	}
	if c.err != nil {
		return 0
	}
	return v
}

// count is a number of things that take at least size bytes each.
func (c *cursor) count(what string, low, high, size uint64) int {
	n := c.limited("number of "+what, low, high)
	if n > uint64(len(c.b))/size {
		c.fail("%d %s in %d bytes", n, what, len(c.b))
		return 0
	}
	return int(n)
}

// bytes are of a length from low to high.
func (c *cursor) bytes(what string, low, high uint64) []byte {
	return c.take(c.limited("length of "+what, low, high))
}

func (c *cursor) text(what string, low, high uint64) string {
	return string(c.bytes(what, low, high))
}

func (c *cursor) id() (id ID) {
	copy(id[:], c.take(32))
	return id
}

func (c *cursor) ids(what string, low, high uint64) []ID {
	var ids []ID
	for range c.count(what, low, high, 32) {
		ids = append(ids, c.id())
	}
	return ids
}

// version is the u8 that begins a format.
func (c *cursor) version(what string) {
	if v := c.u8(); c.err == nil && v != 1 {
		c.err, c.b = fmt.Errorf("%w: %s of version %d", ErrVersion, what, v), nil
	}
}

// end is the error of all that was taken; nothing may be left.
func (c *cursor) end(what string) error {
	if c.err == nil && len(c.b) > 0 {
		c.fail("%d bytes too many", len(c.b))
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w", what, c.err)
	}
	return nil
}

// versioned decodes JSON whose member says the version. Other members that to
// does not have are passed over.
func versioned(b []byte, member string, to any) error {
	if _, err := checkVersion(b, member, 1); err != nil {
		return err
	}
	if err := json.Unmarshal(b, to); err != nil {
		return damaged("%v", err)
	}
	return nil
}

// strict is versioned where other members are not allowed, and versions up to newest are.
func strict(b []byte, member string, newest int, to any) error {
	if _, err := checkVersion(b, member, newest); err != nil {
		return err
	}
	return only(b, to)
}

// only decodes JSON that has no other members than to.
func only(b []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return damaged("%v", err)
	}
	return nil
}

func checkVersion(b []byte, member string, newest int) (int, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return 0, damaged("%v", err)
	}
	var v int
	if err := json.Unmarshal(members[member], &v); err != nil {
		return 0, damaged("%s: %v", member, err)
	}
	if v < 1 || v > newest {
		return 0, fmt.Errorf("%w: %s %d", ErrVersion, member, v)
	}
	return v, nil
}
