package pack

import (
	"bytes"
	"errors"
	"math"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

func validDirectory(t testing.TB, kind Kind) *Directory {
	t.Helper()
	b, _, _ := filled(t, kind, plainSealer{})
	_, _, d, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func randomDirectory(t testing.TB, kind Kind) *Directory {
	t.Helper()
	d := &Directory{Kind: kind}
	if kind == Archive {
		d.Header = bytes.Repeat([]byte{1}, randomInt(t, 300))
		if len(d.Header) == 0 {
			d.Header = nil
		}
	}
	if kind != Meta {
		for range 1 + randomInt(t, 4) {
			d.Sessions = append(d.Sessions, Session{
				SID:           strings.Repeat("s", 1+randomInt(t, MaxSID)),
				Encapsulation: bytes.Repeat([]byte{2}, 1+randomInt(t, MaxEncapsulation)),
			})
		}
	}
	end := int64(headSize)
	for range 1 + randomInt(t, 200) {
		e := Entry{ID: randomID(t), Encoding: Encoding(randomInt(t, 2)), Plain: uint32(1 + randomInt(t, MaxPlain)), Sealed: uint32(1 + randomInt(t, 1<<20))}
		e.Offset = uint32(end) + uint32(randomInt(t, 2)*randomInt(t, 1000))
		if kind != Meta {
			e.Session = uint16(randomInt(t, int64(len(d.Sessions))))
			e.Nonce = uint64(randomInt(t, math.MaxInt64)) >> randomInt(t, 64)
			if randomInt(t, 2) == 1 {
				e.Form = chunk.Form(10 + randomInt(t, 7))
				e.Plain = uint32(1+randomInt(t, 100)) << e.Form
			}
		}
		d.Entries = append(d.Entries, e)
		end = e.End()
	}
	return d
}

func TestDirectoryIsReadBack(t *testing.T) {
	for _, kind := range []Kind{Data, Meta, Archive} {
		for range 30 {
			d := randomDirectory(t, kind)
			b, err := d.Marshal([]byte("before"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseDirectory(b[len("before"):])
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, d) {
				t.Fatalf("%s: read %+v, written %+v", kind, got, d)
			}
			// It shares no memory with what it was read from.
			clear(b)
			if again, err := got.Marshal(nil); err != nil || len(again) != len(b)-6 {
				t.Errorf("%s: %d bytes, %v", kind, len(again), err)
			}
		}
	}
}

func TestArchiveOfNothingIsADirectory(t *testing.T) {
	d := &Directory{Kind: Archive, Header: []byte("an empty file")}
	b, err := d.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDirectory(b)
	if err != nil || !reflect.DeepEqual(got, d) || got.End() != int64(headSize) || got.Pages() != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestInvalidDirectoriesAreRefused(t *testing.T) {
	long := strings.Repeat("x", 1+max(MaxSID, MaxEncapsulation, MaxHeader))
	for name, c := range map[string]struct {
		kind  Kind
		spoil func(*Directory)
	}{
		"unknown kind":             {Data, func(d *Directory) { d.Kind = 4 }},
		"no kind":                  {Data, func(d *Directory) { d.Kind = 0 }},
		"data without chunks":      {Data, func(d *Directory) { d.Entries = nil }},
		"meta without chunks":      {Meta, func(d *Directory) { d.Entries = nil }},
		"data with header":         {Data, func(d *Directory) { d.Header = []byte("h") }},
		"header too long":          {Archive, func(d *Directory) { d.Header = []byte(long) }},
		"data without sessions":    {Data, func(d *Directory) { d.Sessions = nil }},
		"session out of range":     {Data, func(d *Directory) { d.Entries[1].Session = 2 }},
		"meta with sessions":       {Meta, func(d *Directory) { d.Sessions = []Session{{SID: "s", Encapsulation: []byte{1}}} }},
		"meta with a session":      {Meta, func(d *Directory) { d.Entries[0].Session = 1 }},
		"meta with a nonce":        {Meta, func(d *Directory) { d.Entries[0].Nonce = 1 }},
		"meta with pages":          {Meta, func(d *Directory) { d.Entries[0].Form = 13 }},
		"session without ID":       {Data, func(d *Directory) { d.Sessions[0].SID = "" }},
		"session ID too long":      {Data, func(d *Directory) { d.Sessions[0].SID = long[:MaxSID+1] }},
		"session ID with slash":    {Data, func(d *Directory) { d.Sessions[0].SID = "../../x" }},
		"session ID with newline":  {Data, func(d *Directory) { d.Sessions[0].SID = "a\nb" }},
		"no encapsulation":         {Data, func(d *Directory) { d.Sessions[0].Encapsulation = nil }},
		"encapsulation too long":   {Data, func(d *Directory) { d.Sessions[0].Encapsulation = []byte(long)[:MaxEncapsulation+1] }},
		"too many sessions":        {Data, func(d *Directory) { d.Sessions = make([]Session, MaxSessions+1) }},
		"too many chunks":          {Data, func(d *Directory) { d.Entries = make([]Entry, MaxEntries+1) }},
		"unknown form":             {Data, func(d *Directory) { d.Entries[1].Form = 9 }},
		"unknown encoding":         {Data, func(d *Directory) { d.Entries[1].Encoding = 2 }},
		"empty chunk":              {Data, func(d *Directory) { d.Entries[1].Plain = 0 }},
		"chunk too large":          {Data, func(d *Directory) { d.Entries[1].Plain = MaxPlain + 1 }},
		"nothing sealed":           {Data, func(d *Directory) { d.Entries[2].Sealed = 0 }},
		"sealed too large":         {Data, func(d *Directory) { d.Entries[2].Sealed = MaxSealed + 1 }},
		"part of a page":           {Data, func(d *Directory) { d.Entries[0].Plain-- }},
		"less than a page":         {Data, func(d *Directory) { d.Entries[0].Plain = 1 }},
		"overlapping":              {Data, func(d *Directory) { d.Entries[1].Offset-- }},
		"in the head":              {Data, func(d *Directory) { d.Entries[0].Offset = 0 }},
		"not in order":             {Data, func(d *Directory) { d.Entries[0], d.Entries[1] = d.Entries[1], d.Entries[0] }},
		"the same bytes twice":     {Data, func(d *Directory) { d.Entries[1] = d.Entries[0] }},
		"beyond any pack":          {Data, func(d *Directory) { d.Entries[2].Offset = math.MaxUint32 - 10 }},
		"beyond, by its length":    {Data, func(d *Directory) { d.Entries[2].Offset, d.Entries[2].Sealed = math.MaxUint32-10, 11 }},
		"beyond, and not the last": {Data, func(d *Directory) { d.Entries[0].Offset = math.MaxUint32 - 1 }},
	} {
		d := validDirectory(t, c.kind)
		if err := d.Validate(); err != nil {
			t.Fatal(err)
		}
		c.spoil(d)
		if err := d.Validate(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Validate says %v", name, err)
		}
		if _, err := d.Marshal(nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Marshal says %v", name, err)
		}
	}
}

func TestDirectoryCutOffOrWithMoreBehindIsRefused(t *testing.T) {
	for _, kind := range []Kind{Data, Meta, Archive} {
		b, err := validDirectory(t, kind).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := ParseDirectory(b[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("%s cut to %d of %d bytes: %v", kind, n, len(b), err)
			}
		}
		if _, err := ParseDirectory(append(b, 0)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s with a byte more: %v", kind, err)
		}
		newer := bytes.Clone(b)
		newer[0]++
		if _, err := ParseDirectory(newer); !errors.Is(err, ErrVersion) {
			t.Errorf("%s of the next version: %v", kind, err)
		}
	}
}

func TestNumbersHaveOneForm(t *testing.T) {
	// Version, kind, no header; then the number of sessions, 0, in two bytes.
	if _, err := ParseDirectory([]byte{1, byte(Archive), 0, 0x80, 0, 0}); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
	if _, err := ParseDirectory([]byte{1, byte(Archive), 0, 0, 0}); err != nil {
		t.Errorf("the same in one byte: %v", err)
	}
	if _, err := ParseDirectory(append([]byte{1, byte(Archive), 0}, bytes.Repeat([]byte{0xff}, 12)...)); !errors.Is(err, ErrFormat) {
		t.Errorf("number without end: %v", err)
	}
}

func TestClaimedCountsAllocateNothing(t *testing.T) {
	claims := map[string][]byte{
		"sessions": {1, byte(Archive), 0, 0xff, 0x1f},             // 4095
		"entries":  {1, byte(Archive), 0, 0, 0xff, 0xff, 0x3f, 1}, // 1048575
		"header":   {1, byte(Archive), 0xff, 0xff, 0x3f},          // 1048575
	}
	for name, b := range claims {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseDirectory(b)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, ErrFormat) || used > 16<<10 {
			t.Errorf("%s: %d bytes allocated, %v", name, used, err)
		}
	}
}

func TestLocationHasAllThatReadingTakes(t *testing.T) {
	d := validDirectory(t, Data)
	l := d.Location("packs/s/0-aa", 1)
	if l.Pack != "packs/s/0-aa" || l.Entry != d.Entries[1] || l.SID != d.Sessions[1].SID || l.Kind != Data ||
		!bytes.Equal(l.Encapsulation, d.Sessions[1].Encapsulation) {
		t.Errorf("%+v", l)
	}
	m := validDirectory(t, Meta)
	if l := m.Location("p", 0); l.SID != "" || l.Encapsulation != nil || l.Entry != m.Entries[0] {
		t.Errorf("of a meta pack: %+v", l)
	}
}

// goldenDirectory is what testdata/directory.bin holds.
func goldenDirectory() *Directory {
	id := func(first byte) (id chunk.ID) {
		for i := range id {
			id[i] = first + byte(i)
		}
		return id
	}
	return &Directory{
		Kind:   Archive,
		Header: []byte("header"),
		Sessions: []Session{
			{SID: "20260102T030405Z-0011223344556677", Encapsulation: []byte("encapsulation 0")},
			{SID: "20260203T040506Z-8899aabbccddeeff", Encapsulation: []byte("encapsulation 1")},
		},
		Entries: []Entry{
			{ID: id(0), Encoding: Zstd, Offset: 8, Sealed: 300, Plain: 1000, Session: 1, Nonce: 7},
			{ID: id(32), Form: 13, Encoding: Raw, Offset: 308, Sealed: 16400, Plain: 16384, Nonce: 1 << 40},
			{ID: id(64), Form: 10, Encoding: Zstd, Offset: 20000, Sealed: 17, Plain: MaxPlain, Session: 1, Nonce: math.MaxUint64},
		},
	}
}

func TestGoldenDirectory(t *testing.T) {
	b, err := os.ReadFile("testdata/directory.bin")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDirectory(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, goldenDirectory()) {
		t.Errorf("read %+v", got)
	}
	if again, err := got.Marshal(nil); err != nil || !bytes.Equal(again, b) {
		t.Errorf("written differently today: %x, %v", again, err)
	}
}

func FuzzParseDirectory(f *testing.F) {
	for _, kind := range []Kind{Data, Meta, Archive} {
		b, err := validDirectory(f, kind).Marshal(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{1, byte(Archive), 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDirectory(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		again, err := d.Marshal(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x was read, %x written: %v", b, again, err)
		}
		for i := range d.Entries {
			d.Location("p", i)
		}
	})
}
