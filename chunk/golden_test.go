package chunk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// golden is testdata/names.json: what a repository with this key has called
// things since format version 1, and where writers cut. The file is never
// written by a test.
type golden struct {
	Key         string        // K_id, hex
	PageDigests map[string]ID // only for its text form
	RunIDs      map[string]ID
	StreamIDs   map[string]ID
	MetaIDs     map[string]ID
	PageCuts    []int // pages per chunk of numbered pages 0..1999, default parameters
	ListingCuts []int // bytes per chunk of 200,000 congruent bytes, listing parameters
	FileCuts    []int // bytes per chunk of 8 MiB of congruent bytes, default parameters
}

func readGolden(t *testing.T) (golden, Key) {
	t.Helper()
	b, err := os.ReadFile("testdata/names.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		t.Fatal(err)
	}
	k, err := hex.DecodeString(g.Key)
	if err != nil || len(k) != KeySize {
		t.Fatalf("key %q: %v", g.Key, err)
	}
	return g, Key(k)
}

// pattern is n bytes of which byte i is (131*i + i/251) mod 256.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(131*i + i/251)
	}
	return b
}

// numberedDigests are the digests of pages of 8192 bytes that hold their
// number, 64 bits big-endian, and zeros.
func numberedDigests(h *Hasher, n int) []Digest {
	out := make([]Digest, n)
	page := make([]byte, 8192)
	for i := range out {
		binary.BigEndian.PutUint64(page, uint64(i))
		out[i] = h.PageDigest(page)
	}
	return out
}

// congruentBytes are n bytes: the 64-bit big-endian numbers of a linear
// congruence, x = 6364136223846793005*x + 1442695040888963407, from x = 1.
func congruentBytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for x := uint64(1); len(b) < n; {
		x = 6364136223846793005*x + 1442695040888963407
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b[:n]
}

var goldenSizes = map[string]int{"1": 1, "1024": 1024, "1025": 1025, "8192": 8192, "100000": 100_000}

func computeGolden(t *testing.T, k Key) golden {
	h := NewHasher(k)
	g := golden{
		Key:         hex.EncodeToString(k[:]),
		PageDigests: map[string]ID{}, RunIDs: map[string]ID{}, StreamIDs: map[string]ID{}, MetaIDs: map[string]ID{},
	}
	for name, n := range goldenSizes {
		b := pattern(n)
		g.StreamIDs[name], g.MetaIDs[name] = h.StreamID(b), h.MetaID(b)
	}
	for name, n := range map[string]int{"1024": 1024, "8192": 8192, "65536": 65536} {
		g.PageDigests[name] = ID(h.PageDigest(pattern(n)))
	}
	for name, f := range map[string]Form{"4 pages of 8192": 13, "32 pages of 1024": 10} {
		g.RunIDs[name] = h.RunID(h.PageDigests(nil, f, pattern(32768)))
	}
	g.PageCuts = cutPages(newPageCutter(t, k), numberedDigests(h, 2000))
	g.ListingCuts = lengths(cutStream(t, newStreamCutter(t, k, ListingParams()), bytes.NewReader(congruentBytes(200_000))))
	g.FileCuts = lengths(cutStream(t, newStreamCutter(t, k, DefaultStreamParams()), bytes.NewReader(congruentBytes(8<<20))))
	return g
}

func TestNamesAndCutsAreThoseOfTheFormat(t *testing.T) {
	want, k := readGolden(t)
	got := computeGolden(t, k)
	for name, d := range want.PageDigests {
		if got.PageDigests[name] != d {
			t.Errorf("digest of a page of %s bytes: %s, want %s", name, got.PageDigests[name], d)
		}
	}
	for kind, ids := range map[string][2]map[string]ID{
		"run":      {got.RunIDs, want.RunIDs},
		"stream":   {got.StreamIDs, want.StreamIDs},
		"metadata": {got.MetaIDs, want.MetaIDs},
	} {
		if len(ids[1]) == 0 || len(ids[0]) != len(ids[1]) {
			t.Errorf("%s: %d golden IDs for %d cases", kind, len(ids[1]), len(ids[0]))
		}
		for name, id := range ids[1] {
			if ids[0][name] != id {
				t.Errorf("%s ID of %s: %s, want %s", kind, name, ids[0][name], id)
			}
		}
	}
	for kind, cuts := range map[string][2][]int{
		"page":    {got.PageCuts, want.PageCuts},
		"listing": {got.ListingCuts, want.ListingCuts},
		"file":    {got.FileCuts, want.FileCuts},
	} {
		if len(cuts[1]) < 10 || !slices.Equal(cuts[0], cuts[1]) {
			t.Errorf("%s cuts %v, want %v", kind, cuts[0], cuts[1])
		}
	}
}
