package format

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestDirectoryRules(t *testing.T) {
	parse := func(b []byte) error { _, err := parseDirectory(b); return err }
	id, encapsulation := ID{1}, strings.Repeat("e", 1129)
	head := func(kind byte) []byte { return cat(byte(1), kind, "") }
	session := cat(1, "sid", encapsulation)
	data := cat(id, byte(13), byte(1), 0, 100, 8192, 0, 7)
	meta := cat(id, byte(0), byte(0), 5, 141, 101)
	accepts(t, "data", parse(cat(head(1), session, 2, data, data)))
	accepts(t, "meta", parse(cat(head(2), 0, 1, meta)))
	accepts(t, "an empty archive", parse(cat(byte(1), byte(3), "header", session, 0)))
	refuses(t, "version 2", parse(cat(byte(2), byte(1))), ErrVersion)
	whole := cat(head(1), session, 1, data)
	for n := range len(whole) {
		refuses(t, fmt.Sprintf("%d bytes", n), parse(whole[:n]), ErrDamaged)
	}
	for what, b := range map[string][]byte{
		"a byte too many":              append(whole, 0),
		"kind 0":                       cat(head(0), session, 1, data),
		"kind 4":                       cat(head(4), session, 1, data),
		"a header of data":             cat(byte(1), byte(1), "header", session, 1, data),
		"a long header":                cat(byte(1), byte(3), strings.Repeat("h", 1<<20+1), session, 0),
		"sessions of meta":             cat(head(2), session, 1, meta),
		"too many sessions":            cat(head(1), 4097, strings.Repeat("s", 20000)),
		"no sid":                       cat(head(1), 1, "", encapsulation, 1, data),
		"a long sid":                   cat(head(1), 1, strings.Repeat("s", 129), encapsulation, 1, data),
		"a sid with a slash":           cat(head(1), 1, "s/d", encapsulation, 1, data),
		"a sid with a space":           cat(head(1), 1, "s d", encapsulation, 1, data),
		"no encapsulation":             cat(head(1), 1, "sid", "", 1, data),
		"a long encapsulation":         cat(head(1), 1, "sid", strings.Repeat("e", 4097), 1, data),
		"no chunk":                     cat(head(1), session, 0),
		"more chunks than there are":   cat(head(1), session, 1<<20, data),
		"too many chunks":              cat(head(2), 0, 1<<20+1, bytes.Repeat(meta, 10)),
		"form 9":                       cat(head(1), session, 1, id, byte(9), byte(1), 0, 100, 8192, 0, 7),
		"form 17":                      cat(head(1), session, 1, id, byte(17), byte(1), 0, 100, 1<<17, 0, 7),
		"pages of meta":                cat(head(2), 0, 1, id, byte(13), byte(0), 0, 141, 8192),
		"encoding 2":                   cat(head(1), session, 1, id, byte(13), byte(2), 0, 100, 8192, 0, 7),
		"no sealed bytes":              cat(head(1), session, 1, id, byte(13), byte(1), 0, 0, 8192, 0, 7),
		"too many sealed bytes":        cat(head(1), session, 1, id, byte(13), byte(1), 0, 67_109_889, 8192, 0, 7),
		"no plain bytes":               cat(head(1), session, 1, id, byte(13), byte(1), 0, 100, 0, 0, 7),
		"too many plain bytes":         cat(head(1), session, 1, id, byte(0), byte(1), 0, 100, 67_108_865, 0, 7),
		"a part of a page":             cat(head(1), session, 1, id, byte(13), byte(1), 0, 100, 8193, 0, 7),
		"a session that is not there":  cat(head(1), session, 1, id, byte(13), byte(1), 0, 100, 8192, 1, 7),
		"a number in two bytes":        cat(head(1), session, 1, id, byte(13), byte(1), long(0), 100, 8192, 0, 7),
		"another number in two bytes":  cat(head(1), session, long(1), data),
		"a gap that overflows":         cat(head(1), session, 1, id, byte(13), byte(1), 1<<62, 100, 8192, 0, 7),
		"a length without its content": cat(byte(1), byte(3), 1<<20, "x"),
	} {
		refuses(t, what, parse(b), ErrDamaged)
	}
}

func TestSegmentRules(t *testing.T) {
	parse := func(b []byte) error { _, err := parseSegment(b); return err }
	directory := string(cat(byte(1), byte(2), "", 0, 1, ID{}, byte(0), byte(0), 5, 141, 101)) // ends at 154
	archive := string(cat(byte(1), byte(3), "", 1, "archive", "e", 0))
	accepts(t, "a segment", parse(cat(byte(1), 2, "packs/s/0-a", 154, directory, "packs/s/1-b", 1<<32-1, directory)))
	accepts(t, "a sign of life", parse(cat(byte(1), 0)))
	refuses(t, "version 2", parse(cat(byte(2), 0)), ErrVersion)
	refuses(t, "a directory of version 2", parse(cat(byte(1), 1, "packs/s/0-a", 154, "\x02"+directory[1:])), ErrVersion)
	for what, b := range map[string][]byte{
		"nothing":                     {},
		"a byte too many":             cat(byte(1), 0, byte(0)),
		"a pack twice":                cat(byte(1), 2, "packs/s/0-a", 154, directory, "packs/s/0-a", 154, directory),
		"an archive":                  cat(byte(1), 1, "packs/s/0-a", 154, archive),
		"an object without its chunk": cat(byte(1), 1, "packs/s/0-a", 153, directory),
		"too large an object":         cat(byte(1), 1, "packs/s/0-a", 1<<32, directory),
		"no key":                      cat(byte(1), 1, "", 154, directory),
		"a key that is no name":       cat(byte(1), 1, "packs/s/.a", 154, directory),
		"a long key":                  cat(byte(1), 1, strings.Repeat("packs/", 117)+"a", 154, directory),
		"too many packs":              cat(byte(1), 65_537, make([]byte, 300_000)),
		"a number in two bytes":       cat(byte(1), long(0)),
	} {
		refuses(t, what, parse(b), ErrDamaged)
	}
}

func TestListingRules(t *testing.T) {
	entry := func(parts ...any) []byte { return cat(string(cat(parts...))) }
	owner := cat(0, 0, "postgres", "dba")
	stat := cat(1, 2, 3, 4)
	file := func(name string) []byte { return entry(name, byte(2), 0o600, owner, 3, stat, "", byte(1), "recipe") }
	dir := entry("data", byte(1), 0o700, owner, 0, stat, "", byte(0))
	parse := func(b []byte) error { _, err := parseListing(b); return err }
	accepts(t, "a listing", parse(cat(file("config/a"), dir, file("data/b"))))
	for what, b := range map[string][]byte{
		"the wrong order":             cat(file("data/b"), file("data/a")),
		"the same path":               cat(file("data/a"), file("data/a")),
		"no path":                     file(""),
		"a path out of it":            file("data/../a"),
		"a path with a dot":           file("data/./a"),
		"a path with an empty part":   file("data//a"),
		"an absolute path":            file("/data/a"),
		"a path elsewhere":            file("etc/a"),
		"a zero byte":                 file("data/a\x00"),
		"a long path":                 file("data/" + strings.Repeat("a", 8188)),
		"a long entry":                entry("data/a", byte(2), 0o600, owner, 3, stat, "", byte(1), strings.Repeat("r", 1<<20)),
		"an end inside an entry":      file("data/a")[:20],
		"a byte too many in an entry": entry("data", byte(1), 0o700, owner, 0, stat, "", byte(0), byte(0)),
		"type 0":                      entry("data", byte(0), 0o700, owner, 0, stat, "", byte(0)),
		"type 5":                      entry("data", byte(5), 0o700, owner, 0, stat, "", byte(0)),
		"a mode above 07777":          entry("data", byte(1), 0o10000, owner, 0, stat, "", byte(0)),
		"a large user ID":             entry("data", byte(1), 0o700, 1<<32, 0, "", "", 0, stat, "", byte(0)),
		"a long user name":            entry("data", byte(1), 0o700, 0, 0, strings.Repeat("u", 257), "", 0, stat, "", byte(0)),
		"a directory with content":    entry("data", byte(1), 0o700, owner, 3, stat, "", byte(1), "recipe"),
		"a file without content":      entry("data", byte(2), 0o700, owner, 3, stat, "", byte(0)),
		"an empty recipe":             entry("data", byte(2), 0o700, owner, 3, stat, "", byte(1), ""),
		"a recipe of no chunks":       entry("data", byte(2), 0o700, owner, 3, stat, "", byte(2), 0),
		"a recipe of too many chunks": entry("data", byte(2), 0o700, owner, 3, stat, "", byte(2), 4097, make([]byte, 4097*32)),
		"a recipe of chunks not here": entry("data", byte(2), 0o700, owner, 3, stat, "", byte(2), 2, ID{}),
		"a reference of kind 3":       entry("data", byte(2), 0o700, owner, 3, stat, "", byte(3)),
		"a number in two bytes":       entry("data", byte(1), 0o700, owner, long(0), stat, "", byte(0)),
	} {
		refuses(t, what, parse(b), ErrDamaged)
	}
}

func TestRecipeRules(t *testing.T) {
	parse := func(b []byte) error { _, err := parseRecipe(b); return err }
	id := ID{7}
	relation := func(extents ...any) []byte { return cat(append([]any{byte(2), byte(13), 1, id}, extents...)...) }
	accepts(t, "a stream", parse(cat(byte(1), 2, id, 5, id, 67_108_864)))
	accepts(t, "a relation", parse(relation(3, 2<<1, 0, 0, 9<<1|1, 1<<1, 1, 5))) // svarint 1 is -1: the same chunk again
	accepts(t, "a patch", parse(cat(byte(3), byte(13), 1, byte(1), string(relation(1, 3)), 1, 1, id, 1, 0, 1, 1<<1, 0, 0)))
	for what, b := range map[string][]byte{
		"nothing":                        {},
		"kind 0":                         {0},
		"kind 4":                         {4},
		"a byte too many":                cat(byte(1), 1, id, 5, byte(0)),
		"an empty piece":                 cat(byte(1), 1, id, 0),
		"more pieces than there are":     cat(byte(1), 1<<40, id, 5),
		"form 9":                         cat(byte(2), byte(9), 0, 1, 3),
		"form 17":                        cat(byte(2), byte(17), 0, 1, 3),
		"form 0":                         cat(byte(2), byte(0), 0, 1, 3),
		"an extent of no pages":          relation(1, 0, 0, 0),
		"an extent of no zero pages":     relation(1, 1),
		"a chunk behind the table":       relation(1, 1<<1, 2, 0),
		"a chunk before the table":       relation(1, 1<<1, 1, 0),
		"a chunk expected but not there": relation(2, 1<<1, 0, 0, 1<<1, 0, 0),
		"a number in two bytes":          relation(1, long(2), 0, 0),
		"depth 0":                        cat(byte(3), byte(13), 0, byte(1), "parent", 1, 0, 0),
		"depth 17":                       cat(byte(3), byte(13), 17, byte(1), "parent", 1, 0, 0),
	} {
		refuses(t, what, parse(b), ErrDamaged)
	}

	// Rules between a patch and its parent.
	r := &Repository{}
	rebuild := func(b []byte, size int) error {
		content, err := r.File(Entry{Size: uint64(size), recipe: reference{kind: 1, inline: b}})
		if err == nil && !bytes.Equal(content, make([]byte, size)) {
			t.Errorf("%x builds other bytes", b)
		}
		return err
	}
	zeros := string(cat(byte(2), byte(13), 0, 1, 10<<1|1)) // ten zero pages
	patch := func(form byte, depth int, parent string, rest ...any) []byte {
		return cat(append([]any{byte(3), form, depth, byte(1), parent}, rest...)...)
	}
	accepts(t, "zero pages", rebuild([]byte(zeros), 10<<13))
	accepts(t, "a shorter file", rebuild(patch(13, 1, zeros, 4, 0, 0), 4<<13))
	accepts(t, "a longer file", rebuild(patch(13, 1, zeros, 12, 0, 1, 9, 1, 3<<1|1), 12<<13))
	accepts(t, "a patch upon a patch", rebuild(patch(13, 3, string(patch(13, 2, zeros, 4, 0, 0)), 4, 0, 0), 4<<13))
	for what, b := range map[string][]byte{
		"pages that the parent lacks": patch(13, 1, zeros, 12, 0, 0),
		"pages behind the parent":     patch(13, 1, zeros, 13, 0, 2, 9, 1, 2<<1|1, 1, 1, 1<<1|1),
		"more pages than the file's":  patch(13, 1, zeros, 4, 0, 1, 0, 1, 5<<1|1),
		"another form":                patch(14, 1, zeros, 4, 0, 0),
		"a parent of the same depth":  patch(13, 2, string(patch(13, 2, zeros, 4, 0, 0)), 4, 0, 0),
		"a parent that is a stream":   patch(13, 1, string(cat(byte(1), 0)), 0, 0, 0),
		"no parent":                   cat(byte(3), byte(13), 1, byte(0), 0, 0, 0),
	} {
		refuses(t, what, rebuild(b, 4<<13), ErrDamaged)
	}
	refuses(t, "another size", rebuild([]byte(zeros), 10<<13-1), ErrDamaged)
}

func TestWALHeaderRules(t *testing.T) {
	const file = "000000010000000100000020"
	head := func(kind byte, name, content string) []byte {
		return cat(byte(1), kind, make([]byte, 7), byte(9), []byte{0, 0, 0, 1}, "main", name, content)
	}
	unknown := cat(byte(0), byte(0), 0, 0, 0, byte(0), 0)
	segment := func(rest ...any) []byte { return cat(append([]any{head(1, file, ""), 1 << 20, 15}, rest...)...) }
	parse := func(b []byte) error { _, err := parseWALHeader(b); return err }
	const start, end = 0x1_02000000, 0x1_02100000
	accepts(t, "a segment", parse(segment(byte(1), 5, byte(1), 5, 1<<32-2, 2, end, byte(7), 1, "point", start, byte(0))))
	accepts(t, "a segment of which nothing is known", parse(segment(unknown)))
	accepts(t, "a partial segment", parse(cat(head(2, file+".partial", ""), 1<<24, 0, unknown)))
	accepts(t, "a backup history file", parse(cat(head(3, file+".00000028.backup", ""), 0, 0, unknown)))
	accepts(t, "a history file", parse(cat(head(4, "00000001.history", "content"), 0, 0, unknown)))
	refuses(t, "version 2", parse(cat(byte(2), segment(unknown)[1:])), ErrVersion)
	whole := segment(byte(1), 5, byte(1), 5, 7, 9, end, byte(7), 1, "point", start, byte(1), 5)
	accepts(t, "a segment with all", parse(whole))
	for n := range len(whole) {
		refuses(t, fmt.Sprintf("%d bytes", n), parse(whole[:n]), ErrDamaged)
	}
	for what, b := range map[string][]byte{
		"a byte too many":              append(segment(unknown), 0),
		"kind 5":                       cat(head(5, file, ""), 1<<20, 15, unknown),
		"another kind than the name's": cat(head(2, file, ""), 1<<20, 15, unknown),
		"another timeline":             cat(head(1, "00000002"+file[8:], ""), 1<<20, 15, unknown),
		"a name that is none":          cat(head(1, "00000001000000010000002g", ""), 1<<20, 15, unknown),
		"a name in lower case":         cat(head(1, "0000000100000001000000aa", ""), 1<<20, 15, unknown),
		"no segment size":              cat(head(1, file, ""), 0, 15, unknown),
		"a segment size that is none":  cat(head(1, file, ""), 1<<20+1, 15, unknown),
		"a small segment size":         cat(head(1, file, ""), 1<<19, 15, unknown),
		"a large segment size":         cat(head(1, file, ""), 1<<31, 15, unknown),
		"a large version":              cat(head(1, file, ""), 1<<20, 1001, unknown),
		"content of a segment":         cat(head(1, file, "content"), 1<<20, 15, unknown),
		"a history without content":    cat(head(4, "00000001.history", ""), 0, 0, unknown),
		"a long history":               cat(head(4, "00000001.history", strings.Repeat("h", 65_537)), 0, 0, unknown),
		"a history with records":       cat(head(4, "00000001.history", "content"), 0, 0, byte(0), byte(0), 0, 0, 0, byte(1), 0),
		"one time only":                segment(byte(1), 5, byte(0), 0, 0, 0, byte(0), 0),
		"times in the wrong order":     segment(byte(1), 6, byte(1), 4, 0, 0, 0, byte(0), 0),
		"a time of kind 2":             segment(byte(2), byte(0), 0, 0, 0, byte(0), 0),
		"a time in two bytes":          segment(byte(1), long(4), byte(1), 4, 0, 0, 0, byte(0), 0),
		"one transaction only":         segment(byte(0), byte(0), 5, 0, 0, byte(0), 0),
		"transactions in wrong order":  segment(byte(0), byte(0), 2, 1<<32-2, 0, byte(0), 0),
		"a large transaction":          segment(byte(0), byte(0), 5, 1<<32, 0, byte(0), 0),
		"records before the segment":   segment(byte(0), byte(0), 0, 0, start-1, byte(0), 0),
		"records behind the segment":   segment(byte(0), byte(0), 0, 0, end+1, byte(0), 0),
		"flags that are not known":     segment(byte(0), byte(0), 0, 0, 0, byte(8), 0),
		"too many restore points":      segment(byte(0), byte(0), 0, 0, 0, byte(0), 8193, make([]byte, 40_000)),
		"a restore point, no name":     segment(byte(0), byte(0), 0, 0, 0, byte(0), 1, "", start, byte(0)),
		"a restore point, long name":   segment(byte(0), byte(0), 0, 0, 0, byte(0), 1, strings.Repeat("p", 64), start, byte(0)),
		"no cluster":                   cat(byte(1), byte(1), make([]byte, 8), []byte{0, 0, 0, 1}, "", file, "", 1<<20, 15, unknown),
	} {
		refuses(t, what, parse(b), ErrDamaged)
	}
}
