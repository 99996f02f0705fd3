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

// BenchmarkOpenWithIdentityFile is what opening costs besides the requests:
// from the text of the identity file to a bundle that seals.
func BenchmarkOpenWithIdentityFile(b *testing.B) {
	owner := generate(b)
	grown := withGroup(b, withGroup(b, owner, "b"), "c")
	for range 2 {
		var err error
		if grown, err = grown.RotateData(); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		bundle *Bundle
	}{
		{"owner", owner},
		{"owner_of_3_groups_rotated_twice", grown},
		{"writer", forRole(b, owner, Writer)},
	} {
		b.Run(c.name, func(b *testing.B) {
			text, recipient, err := GenerateIdentity()
			if err != nil {
				b.Fatal(err)
			}
			text = PinRoot(text, owner.Signing.Root)
			data := wrap(b, c.bundle, recipient)
			b.ReportAllocs()
			for b.Loop() {
				file, err := ParseIdentityFile(text)
				if err != nil {
					b.Fatal(err)
				}
				bundle, err := Unwrap(data, file.Identities...)
				if err != nil {
					b.Fatal(err)
				}
				if err := bundle.CheckRoot(file.Root); err != nil {
					b.Fatal(err)
				}
				if _, err := bundle.Meta(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	bundle, payload := generate(b), randomBytes(64<<10)
	var signed []byte
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		signed = bundle.Sign(signed[:0], nil, payload)
	}
}

func BenchmarkOpenSigned(b *testing.B) {
	bundle, payload := generate(b), randomBytes(64<<10)
	signed := bundle.Sign(nil, nil, payload)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := bundle.OpenSigned(nil, signed); err != nil {
			b.Fatal(err)
		}
	}
}
