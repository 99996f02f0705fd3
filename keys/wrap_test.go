package keys

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
)

func newIdentity(t testing.TB) (age.Identity, age.Recipient) {
	t.Helper()
	text, recipient, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	file, err := ParseIdentityFile(text)
	if err != nil || len(file.Identities) != 1 || file.Root != nil {
		t.Fatalf("%+v, %v", file, err)
	}
	return file.Identities[0], recipient
}

func wrap(t testing.TB, b *Bundle, r ...age.Recipient) []byte {
	t.Helper()
	data, err := Wrap(b, r...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBundleIsOpenedByItsIdentityOnly(t *testing.T) {
	b := generate(t)
	mine, recipient := newIdentity(t)
	other, _ := newIdentity(t)
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, pass, err := Passphrase("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	data := wrap(t, b, recipient)
	got, err := Unwrap(data, other, x, pass, mine)
	if err != nil || got.MetaKey != b.MetaKey {
		t.Fatalf("unwrap with the right identity: %v", err)
	}
	for name, ids := range map[string][]age.Identity{
		"another": {other}, "X25519": {x}, "passphrase": {pass}, "none": nil, "three": {other, x, pass},
	} {
		if _, err := Unwrap(data, ids...); !errors.Is(err, ErrLocked) {
			t.Errorf("%s identity: %v", name, err)
		}
	}
	if leaks(string(data), b) {
		t.Error("the wrapped bundle shows a secret")
	}
}

func TestOldIdentitiesAreAccepted(t *testing.T) {
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentityFile([]byte("# made by age-keygen\r\n\r\n" + x.String() + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(wrap(t, generate(t), x.Recipient()), ids.Identities...); err != nil {
		t.Error(err)
	}
}

func TestSeveralRecipientsOpenOneBundle(t *testing.T) {
	one, r1 := newIdentity(t)
	two, r2 := newIdentity(t)
	data := wrap(t, generate(t), r1, r2)
	for _, id := range []age.Identity{one, two} {
		if _, err := Unwrap(data, id); err != nil {
			t.Error(err)
		}
	}
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Wrap(generate(t), r1, x.Recipient()); err == nil {
		t.Error("a post-quantum bundle was weakened by another recipient")
	}
	if _, err := Wrap(generate(t)); err == nil {
		t.Error("a bundle for nobody")
	}
}

func TestPassphraseOpensABundle(t *testing.T) {
	b := generate(t)
	recipient, right, err := Passphrase("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	_, wrong, err := Passphrase("correct horse ")
	if err != nil {
		t.Fatal(err)
	}
	data := wrap(t, b, recipient)
	if got, err := Unwrap(data, right); err != nil || got.MetaKey != b.MetaKey {
		t.Errorf("right passphrase: %v", err)
	}
	if _, err := Unwrap(data, wrong); !errors.Is(err, ErrLocked) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, _, err := Passphrase(""); !errors.Is(err, ErrFormat) {
		t.Errorf("empty passphrase: %v", err)
	}
}

func TestUnwrapRefusesTooMuchWork(t *testing.T) {
	// A file by somebody else may ask for any amount of memory.
	recipient, err := age.NewScryptRecipient("p")
	if err != nil {
		t.Fatal(err)
	}
	recipient.SetWorkFactor(10)
	data := bytes.Replace(wrap(t, generate(t), recipient), []byte(" 10\n"), []byte(" 21\n"), 1)
	_, id, err := Passphrase("p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(data, id); err == nil || !strings.Contains(err.Error(), "work factor") {
		t.Errorf("error %v", err)
	}
}

func TestDamagedBundleIsFound(t *testing.T) {
	id, recipient := newIdentity(t)
	b := generate(t)
	data := wrap(t, b, recipient)
	for _, at := range []int{0, 20, 100, 1000, len(data) / 2, len(data) - 1} {
		bad := bytes.Clone(data)
		bad[at] ^= 1
		if _, err := Unwrap(bad, id); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrLocked) {
			t.Errorf("byte %d of %d flipped: %v", at, len(data), err)
		}
	}
	for _, n := range []int{0, 1, 100, len(data) / 2, len(data) - 1} {
		if _, err := Unwrap(data[:n], id); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(data), err)
		}
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("no bundle")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(sealed.Bytes(), id); !errors.Is(err, ErrFormat) {
		t.Errorf("an age file of something else: %v", err)
	}
}

func TestIdentityFileTellsWhatItIs(t *testing.T) {
	text, recipient, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, l := range lines[:len(lines)-1] {
		if !strings.HasPrefix(l, "# ") {
			t.Errorf("line %.20q is no comment", l)
		}
	}
	if !strings.HasPrefix(lines[len(lines)-1], "AGE-SECRET-KEY-PQ-1") {
		t.Error("the last line is no post-quantum identity")
	}
	if !strings.Contains(string(text), "# public key: "+recipient.(*age.HybridRecipient).String()) {
		t.Error("the public key is missing")
	}
	if !strings.Contains(string(text), "lost") {
		t.Error("nothing says what losing the file means")
	}
}

func TestMalformedIdentityFilesAreRefusedWithoutQuotingThem(t *testing.T) {
	text, _, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	secret := lines[len(lines)-1]
	for name, bad := range map[string]string{
		"empty":          "",
		"comments":       "# nothing\n\n",
		"a character":    secret[:30] + "b" + secret[31:], // b is not in the alphabet
		"a digit":        secret[:30] + flip(secret[30]) + secret[31:],
		"cut off":        secret[:len(secret)-1],
		"lower case":     strings.ToLower(secret),
		"a password":     "hunter2",
		"two on a line":  secret + " " + secret,
		"second line":    secret + "\n" + secret[:40],
		"a public key":   "age1pq1qqqq",
		"binary":         "\x00\xff\xfe",
		"other age keys": "AGE-PLUGIN-YUBIKEY-1QQQQ",
	} {
		ids, err := ParseIdentityFile([]byte(bad))
		if !errors.Is(err, ErrFormat) || ids != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, part := range []string{secret[20:28], "hunter2", secret[len(secret)-9:]} {
			if strings.Contains(strings.ToUpper(err.Error()), strings.ToUpper(part)) {
				t.Errorf("%s: the error quotes the file: %v", name, err)
			}
		}
	}
}

// flip is another character of the Bech32 alphabet.
func flip(c byte) string {
	if c == 'Q' {
		return "P"
	}
	return "Q"
}

func TestAgeAloneOpensABundle(t *testing.T) {
	// A person with the identity file is not bound to pgtrove.
	text, recipient, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b := generate(t)
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(wrap(t, b, recipient)), ids...)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeBundle(plain)
	if err != nil || got.MetaKey != b.MetaKey {
		t.Errorf("what age opened is no bundle: %v", err)
	}
}

func FuzzParseIdentityFile(f *testing.F) {
	text, _, err := GenerateIdentity()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("AGE-SECRET-KEY-1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ParseIdentityFile(text)
		if (err == nil) != (file != nil && len(file.Identities) > 0) {
			t.Errorf("%+v, %v", file, err)
		}
	})
}
