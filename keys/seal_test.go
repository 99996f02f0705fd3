package keys

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(b)
	return b
}

func sealerAndOpener(t testing.TB, sid string) (*Sealer, *Opener) {
	t.Helper()
	b := generate(t)
	s, err := b.DataSealer(testRepository, sid)
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.DataOpener(testRepository, sid, s.Encapsulation())
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

func TestSealedChunkOpens(t *testing.T) {
	s, o := sealerAndOpener(t, "s1")
	for i, n := range []int{0, 1, 15, 16, 8192, 1 << 20} {
		plain, id := randomBytes(n), [32]byte{byte(i)}
		sealed, nonce := s.Seal([]byte("before"), plain, id)
		if nonce != uint64(i) {
			t.Errorf("chunk %d has nonce %d", i, nonce)
		}
		if !bytes.HasPrefix(sealed, []byte("before")) || len(sealed) != 6+n+Overhead {
			t.Fatalf("%d bytes sealed to %d behind 6", n, len(sealed))
		}
		got, err := o.Open([]byte("ahead"), sealed[6:], id, nonce)
		if err != nil || !bytes.Equal(got, append([]byte("ahead"), plain...)) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestSealedChunkOpensOnlyAsWhatItWas(t *testing.T) {
	b, other := generate(t), generate(t)
	s, err := b.DataSealer(testRepository, "s1")
	if err != nil {
		t.Fatal(err)
	}
	id := [32]byte{1}
	sealed, nonce := s.Seal(nil, []byte("the content of a chunk"), id)
	open := func(b *Bundle, repository, sid string, encapsulation, sealed []byte, id [32]byte, nonce uint64) error {
		o, err := b.DataOpener(repository, sid, encapsulation)
		if err != nil {
			return err
		}
		_, err = o.Open(nil, sealed, id, nonce)
		return err
	}
	if err := open(b, testRepository, "s1", s.Encapsulation(), sealed, id, nonce); err != nil {
		t.Fatal(err)
	}
	foreign := *other
	foreign.DataKeys = append([]KeyPair(nil), other.DataKeys...)
	foreign.DataKeys[0].ID = b.DataKeys[0].ID // another secret under the same name
	flipped := func(b []byte, at int) []byte {
		out := bytes.Clone(b)
		out[at] ^= 1
		return out
	}
	e := s.Encapsulation()
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"another chunk":       {open(b, testRepository, "s1", e, sealed, [32]byte{2}, nonce), ErrDamaged},
		"another nonce":       {open(b, testRepository, "s1", e, sealed, id, nonce+1), ErrDamaged},
		"another session":     {open(b, testRepository, "s2", e, sealed, id, nonce), ErrDamaged},
		"another repository":  {open(b, testRepository[1:], "s1", e, sealed, id, nonce), ErrDamaged},
		"border moved":        {open(b, testRepository+"s", "1", e, sealed, id, nonce), ErrDamaged},
		"first byte flipped":  {open(b, testRepository, "s1", e, flipped(sealed, 0), id, nonce), ErrDamaged},
		"tag flipped":         {open(b, testRepository, "s1", e, flipped(sealed, len(sealed)-1), id, nonce), ErrDamaged},
		"truncated":           {open(b, testRepository, "s1", e, sealed[:len(sealed)-1], id, nonce), ErrDamaged},
		"empty":               {open(b, testRepository, "s1", e, nil, id, nonce), ErrDamaged},
		"enclosed key":        {open(b, testRepository, "s1", flipped(e, 100), sealed, id, nonce), ErrDamaged},
		"enclosed key's end":  {open(b, testRepository, "s1", flipped(e, len(e)-1), sealed, id, nonce), ErrDamaged},
		"another secret key":  {open(&foreign, testRepository, "s1", e, sealed, id, nonce), ErrDamaged},
		"another bundle":      {open(other, testRepository, "s1", e, sealed, id, nonce), ErrLocked},
		"unknown key ID":      {open(b, testRepository, "s1", flipped(e, 1), sealed, id, nonce), ErrLocked},
		"short encapsulation": {open(b, testRepository, "s1", e[:len(e)-1], sealed, id, nonce), ErrFormat},
		"long encapsulation":  {open(b, testRepository, "s1", append(bytes.Clone(e), 0), sealed, id, nonce), ErrFormat},
		"no encapsulation":    {open(b, testRepository, "s1", nil, sealed, id, nonce), ErrFormat},
		"newer encapsulation": {open(b, testRepository, "s1", flipped(e, 0), sealed, id, nonce), ErrVersion},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
}

func TestDamagedChunkLeavesNothingInTheBuffer(t *testing.T) {
	s, o := sealerAndOpener(t, "s1")
	sealed, nonce := s.Seal(nil, bytes.Repeat([]byte("secret"), 100), [32]byte{})
	sealed[len(sealed)-1] ^= 1
	dst := make([]byte, 0, 1000)
	got, err := o.Open(dst, sealed, [32]byte{}, nonce)
	if !errors.Is(err, ErrDamaged) || len(got) != 0 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if bytes.Contains(dst[:cap(dst)], []byte("secret")) {
		t.Error("the plain text of a forged chunk is in the buffer")
	}
}

func TestConcurrentSealsNeverShareANonce(t *testing.T) {
	s, o := sealerAndOpener(t, "s1")
	const workers, each = 8, 500
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			id := [32]byte{byte(w)}
			plain := bytes.Repeat([]byte{byte(w)}, 100)
			var sealed, back []byte
			for range each {
				var nonce uint64
				sealed, nonce = s.Seal(sealed[:0], plain, id)
				var err error
				if back, err = o.Open(back[:0], sealed, id, nonce); err != nil || !bytes.Equal(back, plain) {
					t.Errorf("worker %d: %v", w, err)
					return
				}
				mu.Lock()
				if seen[nonce] {
					t.Errorf("nonce %d was used twice", nonce)
				}
				seen[nonce] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != workers*each {
		t.Errorf("%d nonces for %d chunks", len(seen), workers*each)
	}
}

func TestNoncesAreTakenOnceEach(t *testing.T) {
	// Without the work between, so that takers really meet. Two that took the
	// same nonce have moved the counter by one only.
	s, _ := sealerAndOpener(t, "s1")
	const workers, each = 4, 1_000_000
	start := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			<-start
			for range each {
				s.take()
			}
		})
	}
	close(start)
	wg.Wait()
	if n := s.next.Load(); n != workers*each {
		t.Errorf("%d chunks moved the counter to %d", workers*each, n)
	}
}

func TestSealerRefusesToUseANonceAgain(t *testing.T) {
	s, _ := sealerAndOpener(t, "s1")
	s.next.Store(math.MaxUint64 - 1)
	if _, nonce := s.Seal(nil, nil, [32]byte{}); nonce != math.MaxUint64-1 {
		t.Fatalf("nonce %d", nonce)
	}
	for range 2 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a chunk was sealed after the last nonce")
				}
			}()
			s.Seal(nil, nil, [32]byte{})
		}()
	}
}

func TestSessionsHaveKeysOfTheirOwn(t *testing.T) {
	b := generate(t)
	one, err := b.DataSealer(testRepository, "s1")
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.DataSealer(testRepository, "s1")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one.Encapsulation(), two.Encapsulation()) {
		t.Error("two sealers have the same encapsulation")
	}
	a, _ := one.Seal(nil, []byte("same"), [32]byte{})
	c, _ := two.Seal(nil, []byte("same"), [32]byte{})
	if bytes.Equal(a, c) {
		t.Error("two sealers have the same key")
	}
	if n := len(one.Encapsulation()); n != EncapsulationSize {
		t.Errorf("encapsulation of %d bytes, documented are %d", n, EncapsulationSize)
	}
	if n := len(b.DataKeys[0].Public); n != PublicKeySize {
		t.Errorf("public key of %d bytes, documented are %d", n, PublicKeySize)
	}
}

func TestSealingDoesNotAllocate(t *testing.T) {
	s, o := sealerAndOpener(t, "s1")
	plain, id := randomBytes(128<<10), [32]byte{1}
	sealed, nonce := s.Seal(nil, plain, id)
	dst, back := make([]byte, 0, len(sealed)), make([]byte, 0, len(plain))
	// A collection between two calls may empty the pool: not each time.
	if n := testing.AllocsPerRun(100, func() { s.Seal(dst, plain, id) }); n >= 1 {
		t.Errorf("Seal allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := o.Open(back, sealed, id, nonce); err != nil {
			t.Error(err)
		}
	}); n >= 1 {
		t.Errorf("Open allocates %v times", n)
	}
}

func FuzzNewOpener(f *testing.F) {
	b := generate(f)
	s, err := b.DataSealer(testRepository, "s1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Encapsulation())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, e []byte) {
		o, err := b.DataOpener(testRepository, "s1", e)
		if err != nil {
			return
		}
		if _, err := o.Open(nil, e, [32]byte{}, 0); !errors.Is(err, ErrDamaged) {
			t.Errorf("garbage opened: %v", err)
		}
	})
}
