package keys

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"
)

// TestMain makes this program a plugin of age where it is called as one. Its
// identities and recipients hold the text of X25519 ones; "broken" is a token
// that is not plugged in.
func TestMain(m *testing.M) {
	if !strings.HasPrefix(filepath.Base(os.Args[0]), "age-plugin-") {
		os.Exit(m.Run())
	}
	p, err := plugin.New(testPlugin)
	if err != nil {
		panic(err)
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return age.ParseX25519Recipient(string(data)) })
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		if string(data) == "broken" {
			return nil, errors.New("the token is not there")
		}
		return age.ParseX25519Identity(string(data))
	})
	os.Exit(p.Main())
}

const testPlugin = "pgtrovetest"

// installPlugin puts the plugin, and nothing else, into the PATH.
func installPlugin(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "age-plugin-"+testPlugin)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

// pluginKey makes the texts of an identity of the plugin and its recipient.
func pluginKey(t *testing.T) (identity, recipient string) {
	t.Helper()
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return plugin.EncodeIdentity(testPlugin, []byte(x.String())), plugin.EncodeRecipient(testPlugin, []byte(x.Recipient().String()))
}

func TestPluginOpensABundle(t *testing.T) {
	installPlugin(t)
	identity, text := pluginKey(t)
	recipient, kind, err := ParseRecipient(text + "\n")
	if err != nil || kind != KindPlugin+testPlugin {
		t.Fatalf("kind %q, %v", kind, err)
	}
	b := generate(t)
	data := wrap(t, b, recipient)
	file, err := ParseIdentityFile([]byte("# a token\n" + identity + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unwrap(data, file.Identities...); err != nil || got.MetaKey != b.MetaKey {
		t.Errorf("unwrap with the plugin: %v", err)
	}
	other, _ := pluginKey(t)
	file, err = ParseIdentityFile([]byte(other))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(data, file.Identities...); !errors.Is(err, ErrLocked) {
		t.Errorf("another identity of the plugin: %v", err)
	}
}

func TestIdentityThatCannotBeAskedIsPassedOver(t *testing.T) {
	installPlugin(t)
	broken := plugin.EncodeIdentity(testPlugin, []byte("broken"))
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b := generate(t)
	data := wrap(t, b, x.Recipient())
	file, err := ParseIdentityFile([]byte(broken + "\n" + x.String()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(data, file.Identities...); err != nil {
		t.Errorf("the second identity fits: %v", err)
	}
	_, err = Unwrap(data, file.Identities[0], file.Identities[0])
	if !errors.Is(err, ErrLocked) || errors.Is(err, ErrDamaged) || strings.Count(err.Error(), "the token is not there") != 2 {
		t.Errorf("a token that is not there: %v", err)
	}
}

func TestPluginThatIsNotInstalledIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	identity, recipient := pluginKey(t)
	for _, err := range []error{
		func() error { _, err := ParseIdentityFile([]byte(identity)); return err }(),
		func() error { _, _, err := ParseRecipient(recipient); return err }(),
	} {
		if !errors.Is(err, ErrPlugin) || !strings.Contains(err.Error(), "age-plugin-"+testPlugin) {
			t.Errorf("error %v", err)
		}
	}
}

// sshKey makes a pair of SSH keys, as files: OpenSSH's, encrypted if there is
// a passphrase.
func sshKey(t testing.TB, pass string) (public string, private []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return sshFiles(t, key, pass)
}

func sshFiles(t testing.TB, key crypto.Signer, pass string) (public string, private []byte) {
	t.Helper()
	p, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if pass == "" {
		block, err = ssh.MarshalPrivateKey(key, "a comment")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "a comment", []byte(pass))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p))) + " me@here\n", pem.EncodeToMemory(block)
}

func TestSSHKeyOpensABundle(t *testing.T) {
	b := generate(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]crypto.Signer{"ed25519": newSecret().private(), "RSA": key} {
		public, private := sshFiles(t, signer, "")
		recipient, kind, err := ParseRecipient(public)
		if err != nil || kind != KindSSH {
			t.Fatalf("%s: kind %q, %v", name, kind, err)
		}
		file, err := ParseIdentityFile(PinRoot(private, b.Signing.Root))
		if err != nil {
			t.Fatal(err)
		}
		if !file.Root.Equal(b.Signing.Root) {
			t.Errorf("%s: the root key above the SSH key is not seen", name)
		}
		if got, err := Unwrap(wrap(t, b, recipient), file.Identities...); err != nil || got.MetaKey != b.MetaKey {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncryptedSSHKeyAsksOnceAndOnlyWhenItFits(t *testing.T) {
	public, private := sshKey(t, "correct horse")
	other, _ := sshKey(t, "")
	asked, answer := 0, "correct horse"
	p := Prompts{Passphrase: func(fingerprint string) (string, error) {
		asked++
		if !strings.HasPrefix(fingerprint, "SHA256:") {
			t.Errorf("asked for %q", fingerprint)
		}
		return answer, nil
	}}
	file, err := p.ParseIdentityFile(private)
	if err != nil {
		t.Fatal(err)
	}
	mine, _, err := ParseRecipient(public)
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, err := ParseRecipient(other)
	if err != nil {
		t.Fatal(err)
	}
	b := generate(t)
	if _, err := Unwrap(wrap(t, b, theirs), file.Identities...); !errors.Is(err, ErrLocked) || asked != 0 {
		t.Errorf("a bundle of another: %v, asked %d times", err, asked)
	}
	answer = "wrong"
	if _, err := Unwrap(wrap(t, b, mine), file.Identities...); !errors.Is(err, ErrLocked) || errors.Is(err, ErrDamaged) || asked != 1 {
		t.Errorf("wrong passphrase: %v, asked %d times", err, asked)
	}
	answer = "correct horse"
	for range 2 {
		if _, err := Unwrap(wrap(t, b, mine), file.Identities...); err != nil || asked != 2 {
			t.Errorf("%v, asked %d times", err, asked)
		}
	}
	file, err = ParseIdentityFile(private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(wrap(t, b, mine), file.Identities...); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "nobody can be asked") {
		t.Errorf("nobody to ask: %v", err)
	}
}

func TestNobodyIsAskedWhereAnotherIdentityFits(t *testing.T) {
	public, private := sshKey(t, "correct horse")
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	p := Prompts{Passphrase: func(string) (string, error) {
		t.Error("asked for a passphrase that is not needed")
		return "", errors.New("no")
	}}
	file, err := p.ParseIdentityFile(private)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := ParseRecipient(public)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwrap(wrap(t, generate(t), r, x.Recipient()), append(file.Identities, x)...); err != nil {
		t.Error(err)
	}
}

func TestMalformedSSHKeysAreRefusedWithoutQuotingThem(t *testing.T) {
	_, private := sshKey(t, "")
	body := strings.Split(string(private), "\n")[2]
	for name, text := range map[string]string{
		"cut off":     string(private[:len(private)/2]),
		"no key":      "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
		"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"old, locked": "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
	} {
		_, err := ParseIdentityFile([]byte(text))
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), body[:8]) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
}

func TestRecipientsTellTheirKind(t *testing.T) {
	_, hybrid, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{hybrid.(*age.HybridRecipient).String(), x.Recipient().String(), " " + x.Recipient().String() + "\n"} {
		r, kind, err := ParseRecipient(text)
		if err != nil || kind != KindIdentity {
			t.Fatalf("kind %q, %v", kind, err)
		}
		wrap(t, generate(t), r)
	}
	for _, text := range []string{
		"", "age1", "age1pq1qq", "age1qq", x.String(), x.Recipient().String()[:40], "ssh-ed25519", "ssh-ed25519 AAAA",
		"ssh-dss AAAAB3NzaC1kc3M=", "alice", "ecdsa-sha2-nistp256 AAAA",
	} {
		if _, _, err := ParseRecipient(text); !errors.Is(err, ErrFormat) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	// What is no recipient may be a secret that somebody took for one.
	for _, secret := range []string{x.String(), strings.ToLower(x.String()), "correct horse"} {
		_, _, err := ParseRecipient(secret)
		for _, part := range []string{x.String()[16:22], "horse"} {
			if strings.Contains(strings.ToUpper(err.Error()), strings.ToUpper(part)) {
				t.Errorf("a secret given for a recipient is shown: %v", err)
			}
		}
	}
}

func TestIdentityFileNamesTheRootKey(t *testing.T) {
	text, _, err := GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	root := generate(t).Signing.Root
	pinned := PinRoot(text, root)
	file, err := ParseIdentityFile(pinned)
	if err != nil || !file.Root.Equal(root) {
		t.Fatalf("root %x, %v", file.Root, err)
	}
	if _, err := age.ParseIdentities(bytes.NewReader(pinned)); err != nil {
		t.Errorf("age does not read it any more: %v", err)
	}
	if file, err = ParseIdentityFile(PinRoot(pinned, root)); err != nil || !file.Root.Equal(root) {
		t.Errorf("the same root key twice: %v", err)
	}
	// A pin that cannot be read must not go unnoticed.
	line := strings.Split(string(pinned), "\n")[0]
	for name, bad := range map[string]string{
		"cut off":  line[:len(line)-1],
		"empty":    "# repository root:",
		"short":    "# repository root: " + base64.StdEncoding.EncodeToString(root[1:]),
		"another":  line + "\n# repository root: " + base64.StdEncoding.EncodeToString(generate(t).Signing.Root),
		"no base":  "# repository root: !" + line[20:],
		"trailing": line + " x",
	} {
		if _, err := ParseIdentityFile([]byte(bad + "\n" + string(text))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
