package storage_test

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
)

func TestARangeNeverLeavesTheObject(t *testing.T) {
	edges := []int64{0, 1, 2, 9, 10, 11, 1 << 40, math.MaxInt64, -1, -9, -10, -11, -1 << 40, math.MinInt64}
	for _, size := range []int64{0, 1, 10, 1 << 40} {
		for _, off := range edges {
			for _, n := range edges {
				if n < 0 {
					continue
				}
				o, l := storage.Range{Off: off, Len: n}.Resolve(size)
				if o < 0 || l < 0 || o > size || l > size-o || n > 0 && l > n {
					t.Errorf("{%d %d} of %d bytes: %d from %d", off, n, size, l, o)
				}
			}
		}
	}
	for _, c := range []struct {
		r      storage.Range
		off, n int64
	}{
		{storage.Range{}, 0, 10}, {storage.Range{Off: 3}, 3, 7}, {storage.Range{Off: 3, Len: 2}, 3, 2},
		{storage.Range{Off: -3}, 7, 3}, {storage.Range{Off: -3, Len: 2}, 7, 2}, {storage.Range{Off: -30, Len: 2}, 0, 2},
		{storage.Range{Off: 8, Len: 5}, 8, 2}, {storage.Range{Off: 10}, 10, 0}, {storage.Range{Off: 11, Len: 1}, 10, 0},
	} {
		if off, n := c.r.Resolve(10); off != c.off || n != c.n {
			t.Errorf("%+v: %d from %d, want %d from %d", c.r, n, off, c.n, c.off)
		}
	}
}

func TestNamesFromOutsideAreCheckedAsPartsOfKeys(t *testing.T) {
	for _, name := range []string{"main", "a", "prod-1.eu_west", "0", "-", "_", strings.Repeat("x", 200)} {
		if err := storage.CheckPart(name); err != nil {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".x", "a/", "a/b", "/", "a b", "ü", "a\x00", strings.Repeat("x", 201)} {
		if err := storage.CheckPart(name); !errors.Is(err, storage.ErrKey) {
			t.Errorf("%.20q: %v, want ErrKey", name, err)
		}
	}
}

func TestAnErrorTellsClassAndReason(t *testing.T) {
	for _, c := range []struct {
		err  *storage.Error
		text string
		is   []error
	}{
		{&storage.Error{Op: "get", Key: "k", Class: storage.ErrUnreachable, Err: io.ErrUnexpectedEOF},
			"get k: storage unreachable: unexpected EOF", []error{storage.ErrUnreachable, io.ErrUnexpectedEOF}},
		{&storage.Error{Op: "put", Key: "k", Class: storage.ErrExist}, "put k: object exists already", []error{storage.ErrExist}},
		{&storage.Error{Op: "list", Key: "p/", Err: io.EOF}, "list p/: EOF", []error{io.EOF}},
		{&storage.Error{Op: "put", Key: "k", Class: storage.ErrUnreachable, Err: io.EOF, NotDurable: true},
			"put k: storage unreachable: EOF", []error{storage.ErrUnreachable, io.EOF, storage.ErrNotDurable}},
	} {
		if got := c.err.Error(); got != c.text {
			t.Errorf("%q, want %q", got, c.text)
		}
		for _, is := range c.is {
			if !errors.Is(c.err, is) {
				t.Errorf("%v is not %v", c.err, is)
			}
		}
		if errors.Is(c.err, storage.ErrNotExist) {
			t.Errorf("%v is ErrNotExist", c.err)
		}
	}
}

// A key that passes stays below the root of a file system, and each of its prefixes passes as one.
func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{"config", "packs/a/1-ff", "../x", "a//b", "a/./b", "", "/", "a/", strings.Repeat("a/", 360) + "a"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if storage.CheckKey(key) != nil {
			return
		}
		for part := range strings.SplitSeq(key, "/") {
			if part == "" || part[0] == '.' || len(part) > storage.MaxPart {
				t.Errorf("%q has the part %q", key, part)
			}
		}
		for i := range key {
			if err := storage.CheckPrefix(key[:i]); err != nil {
				t.Errorf("prefix %q of a valid key: %v", key[:i], err)
			}
		}
	})
}
