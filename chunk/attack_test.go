package chunk

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/restic/chunker"
)

// These tests carry out the attack on cutting by a rolling hash with a secret
// polynomial (docs/security.md). Who sees the lengths of chunks of a stream
// that he knows has the 64 bytes before each cut. The low bits of the
// fingerprint, which are zero there, are linear in these 512 bits. So the bits
// of all cuts lie in a space of fewer dimensions; what is orthogonal to it is,
// read as a sequence, the output of a shift register whose taps are the
// polynomial. Nothing is guessed, and its 53 bits are no obstacle.

// vector is the bits of a window and, in the last word, a one: relations that
// hold for all windows may have a constant.
type vector [rollingWindow/8 + 1]uint64

// bit i of a window is the coefficient of x^i in the Rabin fingerprint.
func windowVector(window []byte) (v vector) {
	for i, b := range window {
		exp := 8 * (rollingWindow - 1 - i)
		v[exp/64] |= uint64(b) << (exp % 64)
	}
	v[rollingWindow/8] = 1
	return v
}

func (v *vector) bit(i int) uint64 { return v[i/64] >> (i % 64) & 1 }

// relation is a sum of bits that is zero for all windows, unless there is
// none. rank is the number of independent windows.
func relation(windows [][]byte) (rel []uint64, rank int) {
	const n = 8*rollingWindow + 1
	pivot := make([]*vector, n)
	for _, w := range windows {
		v := windowVector(w)
		for i := range n {
			if v.bit(i) == 0 {
				continue
			}
			if pivot[i] == nil {
				pivot[i] = &v
				rank++
				break
			}
			for k := range v {
				v[k] ^= pivot[i][k]
			}
		}
	}
	free := -1
	for i := range n {
		if pivot[i] == nil {
			free = i
			break
		}
	}
	if free < 0 {
		return nil, rank
	}
	rel = make([]uint64, n)
	rel[free] = 1
	for i := n - 1; i >= 0; i-- {
		if pivot[i] == nil {
			continue
		}
		for k := i + 1; k < n; k++ {
			rel[i] ^= pivot[i].bit(k) & rel[k]
		}
	}
	return rel, rank
}

// shiftRegister is the polynomial of the shortest linear shift register whose
// output the sequence is (Berlekamp and Massey), 0 if it has more than 63
// cells.
func shiftRegister(seq []uint64) chunker.Pol {
	c, b := make([]uint64, len(seq)+1), make([]uint64, len(seq)+1)
	c[0], b[0] = 1, 1
	length, m := 0, 1
	for i := range seq {
		d := uint64(0)
		for j := 0; j <= length; j++ {
			d ^= c[j] & seq[i-j]
		}
		if d == 0 {
			m++
			continue
		}
		before := slices.Clone(c)
		for j := 0; j+m < len(c); j++ {
			c[j+m] ^= b[j]
		}
		if 2*length <= i {
			length, b, m = i+1-length, before, 1
		} else {
			m++
		}
	}
	if length > 63 {
		return 0
	}
	var p chunker.Pol
	for j := 0; j <= length; j++ {
		p |= chunker.Pol(c[j]) << (length - j)
	}
	return p
}

// attack gives the polynomial that the windows before the cuts betray, 0 if
// they betray none.
func attack(windows [][]byte) (chunker.Pol, int) {
	rel, rank := relation(windows)
	if rel == nil {
		return 0, rank
	}
	return shiftRegister(rel[:8*rollingWindow]), rank
}

// cutRabin cuts as a rolling hash alone does, and as streams were cut before.
func cutRabin(pol chunker.Pol, data []byte, p StreamParams) []int {
	base := chunker.NewBase(pol, chunker.WithBaseBoundaries(uint(p.Min), uint(p.Max)), chunker.WithBaseAverageBits(p.AverageBits))
	var out []int
	for {
		n := base.NextSplitPoint(data)
		if n < 0 {
			return out
		}
		out = append(out, n)
		data = data[n:]
	}
}

// windowsBefore is what an observer of the lengths has who knows the data.
func windowsBefore(data []byte, lengths []int, longest int) [][]byte {
	var out [][]byte
	at := 0
	for _, n := range lengths {
		at += n
		if n < longest { // else cut because it was long
			out = append(out, data[at-rollingWindow:at])
		}
	}
	return out
}

func secretPolynomial(t *testing.T, r *rand.Rand) chunker.Pol {
	t.Helper()
	pol, err := chunker.DerivePolynomial(bytes.NewReader(randomBytes(r.Uint64(), 1<<16)))
	if err != nil {
		t.Fatal(err)
	}
	return pol
}

func TestLengthsBetrayTheSecretOfARollingHash(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	known, other := randomBytes(1, 4<<20), randomBytes(2, 1<<20)
	p := ListingParams()
	pol := secretPolynomial(t, r)

	got, rank := attack(windowsBefore(known, cutRabin(pol, known, p), p.Max))
	if got != pol {
		t.Errorf("the attack finds %v (rank %d), the polynomial is %v: it proves nothing about what it does not break", got, rank, pol)
	}
	if !slices.Equal(cutRabin(got, other, p), cutRabin(pol, other, p)) {
		t.Error("other data is not cut as foreseen")
	}

	// A rolling hash that proposes, and a secret coin that chooses.
	var lengths []int
	open := 0
	for _, n := range cutRabin(pol, known, StreamParams{Min: rollingWindow, AverageBits: 6, Max: math.MaxInt32}) {
		open += n
		if r.IntN(8) == 0 {
			lengths = append(lengths, open)
			open = 0
		}
	}
	if got, rank := attack(windowsBefore(known, lengths, math.MaxInt)); got != pol {
		t.Errorf("in two stages: the attack finds %v (rank %d), the polynomial is %v", got, rank, pol)
	}
}

func TestLengthsOfStreamChunksBetrayNothing(t *testing.T) {
	known := randomBytes(1, 4<<20)
	p := ListingParams()
	c := newStreamCutter(t, Key{1}, p)
	chunks := cutStream(t, c, bytes.NewReader(known))
	chunks = chunks[:len(chunks)-1]
	var cuts, drawn [][]byte
	for _, b := range chunks {
		s := scan{c: c}
		if s.find(b) != len(b) {
			t.Fatal("a chunk does not end where it was cut")
		}
		if len(b) < p.Max {
			anchor := s.quiet - anchorGap
			cuts = append(cuts, b[len(b)-rollingWindow:])
			drawn = append(drawn, b[anchor-rollingWindow:anchor])
		}
	}
	const all = 8*rollingWindow + 1
	for name, windows := range map[string][][]byte{"the cuts": cuts, "the draws that made the cuts": drawn} {
		if got, rank := attack(windows); got != 0 || rank != all {
			t.Errorf("%d windows before %s lie in a space of %d dimensions of %d", len(windows), name, rank, all)
		}
	}
}

// knownStreams are contents of very different kinds, none of which repeats 64
// bytes.
func knownStreams() map[string][]byte {
	var listing, numbers bytes.Buffer
	for i := 0; listing.Len() < 64<<10; i++ {
		fmt.Fprintf(&listing, "base/5/%d file 8192 0600 2026-11-21T21:28:00Z\n", 16384+i)
	}
	for i := 0; numbers.Len() < 64<<10; i++ {
		fmt.Fprintf(&numbers, "%06d\n", i)
	}
	return map[string][]byte{"noise": randomBytes(7, 64<<10), "a listing": listing.Bytes(), "numbers": numbers.Bytes()}
}

func TestLengthsOfStreamChunksAreThoseOfCoinTosses(t *testing.T) {
	const keys, bins, limit = 4000, 16, 45 // the limit is passed by chance once in 10,000
	p := StreamParams{Min: 256, AverageBits: 9, Max: 32 << 10}
	for name, data := range knownStreams() {
		var counts [bins]int
		for i := range keys {
			c, err := NewStreamCutter(Key{byte(i), byte(i >> 8), 5}, p, bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.Next(nil)
			if err != nil {
				t.Fatal(err)
			}
			// The chance that tosses would have cut before this place.
			before := 1 - math.Pow(1-math.Ldexp(1, -p.AverageBits), float64(len(b)-p.Min))
			counts[int(before*bins)]++
		}
		chi := 0.0
		for _, n := range counts {
			d := float64(n) - keys/bins
			chi += d * d / (keys / bins)
		}
		if chi > limit {
			t.Errorf("%s: lengths are not those of coin tosses (chi square %.0f): %v", name, chi, counts)
		}
	}
}

func TestDrawsAddUp(t *testing.T) {
	for _, avg := range []int{1, 6, 12, 19, 26} {
		c := newStreamCutter(t, Key{1}, StreamParams{Min: 64, AverageBits: avg, Max: 1 << 20})
		want := float64(drawOne)
		for k, got := range c.left {
			if math.Abs(float64(got)-want) > 8e6 || k > 0 && got > c.left[k-1] {
				t.Fatalf("%d bits: %d of %d left after %d tosses, want %.0f", avg, got, uint64(drawOne), k, want)
			}
			want *= 1 - math.Ldexp(1, -avg)
		}
	}
}

func TestRunsOfOneByteAreCutIntoEqualChunks(t *testing.T) {
	c := newStreamCutter(t, Key{1}, ListingParams())
	for v := range 256 {
		got := lengths(cutStream(t, c, bytes.NewReader(bytes.Repeat([]byte{byte(v)}, 200_000))))
		for i, n := range got[:len(got)-1] {
			if n != got[0] {
				t.Errorf("byte %d: chunk %d has %d bytes, the first %d", v, i, n, got[0])
			}
		}
	}
}

func TestInsertedBytesChangeOnlyChunksNearby(t *testing.T) {
	c, h := newStreamCutter(t, Key{1}, ListingParams()), NewHasher(Key{1})
	for name, data := range map[string][]byte{"noise": randomBytes(3, 1<<20), "listings": bytes.Repeat(knownStreams()["a listing"], 8)} {
		before := map[ID]bool{}
		for _, b := range cutStream(t, c, bytes.NewReader(data)) {
			before[h.MetaID(b)] = true
		}
		for at := 0; at < len(data); at += 99_991 {
			added := 0
			for _, b := range cutStream(t, c, bytes.NewReader(slices.Concat(data[:at], []byte("x"), data[at:]))) {
				if !before[h.MetaID(b)] {
					added++
				}
			}
			if added < 1 || added > 6 {
				t.Errorf("%s: a byte at %d makes %d new chunks of %d", name, at, added, len(before))
			}
		}
	}
}
