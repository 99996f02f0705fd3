package keys

import "testing"

func BenchmarkSeal128KiB(b *testing.B) {
	s, _ := sealerAndOpener(b, "s1")
	plain := randomBytes(128 << 10)
	var sealed []byte
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		sealed, _ = s.Seal(sealed[:0], plain, [32]byte{})
	}
}

func BenchmarkOpen128KiB(b *testing.B) {
	s, o := sealerAndOpener(b, "s1")
	plain := randomBytes(128 << 10)
	sealed, nonce := s.Seal(nil, plain, [32]byte{})
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if plain, err = o.Open(plain[:0], sealed, [32]byte{}, nonce); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMetaSeal4KiB(b *testing.B) {
	m := newTestMeta(b)
	plain, aad := randomBytes(4<<10), make([]byte, 64)
	var sealed []byte
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		sealed = m.Seal(sealed[:0], plain, aad)
	}
}

func BenchmarkMetaOpen4KiB(b *testing.B) {
	m := newTestMeta(b)
	plain, aad := randomBytes(4<<10), make([]byte, 64)
	sealed := m.Seal(nil, plain, aad)
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if plain, err = m.Open(plain[:0], sealed, aad); err != nil {
			b.Fatal(err)
		}
	}
}

// What a process that archives one segment pays before it works.

func BenchmarkNewSealer(b *testing.B) {
	bundle := generate(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bundle.WALSealer(testRepository, "s1"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewOpener(b *testing.B) {
	bundle := generate(b)
	s, err := bundle.DataSealer(testRepository, "s1")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bundle.DataOpener(testRepository, "s1", s.Encapsulation()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnwrapWithIdentity(b *testing.B) {
	id, recipient := newIdentity(b)
	data := wrap(b, generate(b), recipient)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unwrap(data, id); err != nil {
			b.Fatal(err)
		}
	}
}
