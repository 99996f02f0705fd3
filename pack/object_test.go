package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

func TestFinishedPackIsReadFromItsEnd(t *testing.T) {
	s := testSealer{1}
	for _, kind := range []Kind{Data, Meta, Archive} {
		b, sealed, digests := filled(t, kind, s)
		guess := b.Size()
		object, sum, dir, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(object)
		if kind == Archive {
			want = [sha256.Size]byte{}
		}
		if sum != want {
			t.Errorf("%s: the sum is not that of the object", kind)
		}
		if d := len(object) - guess; d < -400 || d > 400 {
			t.Errorf("%s: %d bytes, guessed %d", kind, len(object), guess)
		}
		if err := CheckHead(object); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		got, err := OpenDirectory(object, int64(len(object)), s, testAAD)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, dir) {
			t.Errorf("%s: read %+v, built %+v", kind, got, dir)
		}
		if kind == Archive && string(got.Header) != "header of the archive" {
			t.Errorf("header %q", got.Header)
		}
		for i := range got.Entries {
			e := &got.Entries[i]
			if !bytes.Equal(object[e.Offset:e.End()], sealed[i]) {
				t.Errorf("%s: chunk %d is not at its offset", kind, i)
			}
		}
		trailer, err := ParseTrailer(object[len(object)-TrailerSize:], int64(len(object)))
		if err != nil {
			t.Fatal(err)
		}
		off, n := trailer.DigestsAt()
		prefixes, err := OpenDigests(object[off:off+n], got, s, testAAD)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range digests {
			if len(prefixes[i]) != len(want) {
				t.Fatalf("%s: chunk %d has %d page digests, want %d", kind, i, len(prefixes[i]), len(want))
			}
			for j := range want {
				if prefixes[i][j] != want[j].Prefix() {
					t.Errorf("%s: digest %d of chunk %d", kind, j, i)
				}
			}
		}
		if kind == Meta && n != 0 {
			t.Errorf("a meta pack has %d bytes of page digests", n)
		}
	}
}

func TestShortTailSaysHowMuchIsMissing(t *testing.T) {
	s := testSealer{1}
	b, _, _ := filled(t, Data, s)
	object, _, dir, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(object))
	for n := range TrailerSize {
		if _, err := OpenDirectory(object[size-int64(n):], size, s, testAAD); !errors.Is(err, ErrShortTail) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for n := int64(TrailerSize); ; n++ {
		trailer, err := ParseTrailer(object[size-n:], size)
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenDirectory(object[size-n:], size, s, testAAD)
		if n < trailer.TailLen() {
			if !errors.Is(err, ErrShortTail) {
				t.Fatalf("%d of %d bytes: %v", n, trailer.TailLen(), err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, dir) {
			t.Errorf("with all %d bytes: %v", n, err)
		}
		return
	}
}

func TestEveryFlippedBitBehindTheChunksIsFound(t *testing.T) {
	s := testSealer{1}
	b, _, _ := filled(t, Data, s)
	object, _, dir, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(object))
	read := func(object []byte) error {
		d, err := OpenDirectory(object, size, s, testAAD)
		if err != nil {
			return err
		}
		trailer, err := ParseTrailer(object, size)
		if err != nil {
			return err
		}
		off, n := trailer.DigestsAt()
		_, err = OpenDigests(object[off:off+n], d, s, testAAD)
		return err
	}
	if err := read(object); err != nil {
		t.Fatal(err)
	}
	for at := dir.End(); at < size; at++ {
		bad := bytes.Clone(object)
		bad[at] ^= 0x04
		if err := read(bad); err == nil {
			t.Errorf("byte %d of %d: not found", at, size)
		}
	}
}

func TestSectionsOpenOnlyAsThemselves(t *testing.T) {
	s := testSealer{1}
	b, _, _ := filled(t, Data, s)
	object, _, dir, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(object))
	if _, err := OpenDirectory(object, size, s, []byte("another pack")); !errors.Is(err, errOpen) {
		t.Errorf("directory of another pack: %v", err)
	}
	if _, err := OpenDirectory(object, size, testSealer{2}, testAAD); !errors.Is(err, errOpen) {
		t.Errorf("another key: %v", err)
	}
	trailer, err := ParseTrailer(object, size)
	if err != nil {
		t.Fatal(err)
	}
	off, n := trailer.DigestsAt()
	directory := object[off+n : off+n+int64(trailer.Directory)]
	if _, err := OpenDigests(directory, dir, s, testAAD); !errors.Is(err, errOpen) {
		t.Errorf("the directory as page digests: %v", err)
	}
	if _, err := OpenDigests(object[off:off+n], dir, s, []byte("another pack")); !errors.Is(err, errOpen) {
		t.Errorf("page digests of another pack: %v", err)
	}
	if _, err := OpenDigests(nil, dir, s, testAAD); err == nil {
		t.Error("page digests left out")
	}
	fewer := *dir
	fewer.Entries = dir.Entries[:2]
	if _, err := OpenDigests(object[off:off+n], &fewer, s, testAAD); !errors.Is(err, ErrFormat) {
		t.Errorf("more page digests than pages: %v", err)
	}
	swapped := append(bytes.Clone(object[:off]), directory...)
	swapped = append(swapped, object[off:off+n]...)
	swapped = binary.BigEndian.AppendUint32(swapped, trailer.Directory)
	swapped = binary.BigEndian.AppendUint32(swapped, trailer.Digests)
	swapped = append(swapped, magic...)
	if _, err := OpenDirectory(swapped, size, s, testAAD); !errors.Is(err, errOpen) {
		t.Errorf("sections swapped: %v", err)
	}
}

func TestTrailersThatCannotBeAreRefused(t *testing.T) {
	trailer := func(digests, directory uint32, end string) []byte {
		b := binary.BigEndian.AppendUint32(nil, digests)
		b = binary.BigEndian.AppendUint32(b, directory)
		return append(b, end...)
	}
	const size = 1000
	room := uint32(size - headSize - TrailerSize)
	for name, c := range map[string]struct {
		tail []byte
		size int64
		want error
	}{
		"fits exactly":       {trailer(1, room-1, magic), size, nil},
		"one too many":       {trailer(1, room, magic), size, ErrFormat},
		"larger than 32 bit": {trailer(1<<32-1, 1<<32-1, magic), size, ErrFormat},
		"no magic":           {trailer(1, 1, "ABCDEFG\x01"), size, ErrFormat},
		"next version":       {trailer(1, 1, magic[:7]+"\x02"), size, ErrVersion},
		"tiny object":        {trailer(0, 0, magic), int64(TrailerSize), ErrFormat},
		"huge object":        {trailer(1, 1, magic), MaxObject + 1, ErrFormat},
		"negative size":      {trailer(1, 1, magic), -1, ErrFormat},
		"more than object":   {append(make([]byte, size), trailer(1, 1, magic)...), size, ErrFormat},
		"short":              {trailer(1, 1, magic)[1:], size, ErrShortTail},
		"nothing":            {nil, size, ErrShortTail},
	} {
		if _, err := ParseTrailer(c.tail, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for head, want := range map[string]error{
		magic + "x": nil, magic: nil, magic[:7]: ErrFormat, "": ErrFormat, magic[:7] + "\x02": ErrVersion, "ABCDEFG\x01": ErrFormat,
	} {
		if err := CheckHead([]byte(head)); !errors.Is(err, want) {
			t.Errorf("head %q: %v, want %v", head, err, want)
		}
	}
}

func TestChunksMayNotReachIntoTheSectionsBehindThem(t *testing.T) {
	s := plainSealer{}
	b, _, _ := filled(t, Meta, s)
	object, _, dir, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	dir.Entries[2].Sealed++
	plain, err := dir.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	trailer, err := ParseTrailer(object, int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	if len(plain) != int(trailer.Directory) {
		t.Fatalf("directory of %d bytes, was %d", len(plain), trailer.Directory)
	}
	copy(object[len(object)-int(trailer.TailLen()):], plain)
	if _, err := OpenDirectory(object, int64(len(object)), s, testAAD); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}

func TestPageDigestsAreThereExactlyWhenPagesAre(t *testing.T) {
	s := plainSealer{}
	for kind, digests := range map[Kind][]byte{Data: nil, Meta: []byte("eight by")} {
		b, _, _ := filled(t, kind, s)
		object, _, dir, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		plain, err := dir.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		bad := append(bytes.Clone(object[:dir.End()]), digests...)
		bad = append(bad, plain...)
		bad = binary.BigEndian.AppendUint32(bad, uint32(len(digests)))
		bad = binary.BigEndian.AppendUint32(bad, uint32(len(plain)))
		bad = append(bad, magic...)
		if _, err := OpenDirectory(bad, int64(len(bad)), s, testAAD); !errors.Is(err, ErrFormat) {
			t.Errorf("%s with %d bytes of page digests: %v", kind, len(digests), err)
		}
	}
}

func FuzzOpenDirectory(f *testing.F) {
	s := plainSealer{}
	for _, kind := range []Kind{Data, Meta, Archive} {
		b, _, _ := filled(f, kind, s)
		object, _, _, err := b.Finish()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object, int64(len(object)))
	}
	f.Fuzz(func(t *testing.T, tail []byte, size int64) {
		d, err := OpenDirectory(tail, size, s, nil)
		if err != nil {
			return
		}
		trailer, err := ParseTrailer(tail, size)
		if err != nil {
			t.Fatal(err)
		}
		off, n := trailer.DigestsAt()
		if d.End() > off || off+n > size {
			t.Errorf("chunks end at %d, digests are at %d of %d bytes", d.End(), off, size)
		}
		if _, err := OpenDigests(make([]byte, chunk.PrefixSize*d.Pages()), d, s, nil); err != nil {
			t.Errorf("digests of %d pages: %v", d.Pages(), err)
		}
	})
}
