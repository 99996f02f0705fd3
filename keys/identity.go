package keys

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"
)

// IdentityFile is what a person keeps to open a repository.
type IdentityFile struct {
	Identities []age.Identity
	Root       ed25519.PublicKey // of the only repository that they open; nil: the file does not say
}

// Prompts are what plugins and encrypted SSH keys may ask a person. What is
// nil cannot be asked. The zero value asks nothing.
type Prompts struct {
	// Passphrase asks for that of the SSH key with this fingerprint.
	Passphrase func(fingerprint string) (string, error)
	// Plugin is what a plugin of age may ask; nil: nothing.
	Plugin *plugin.ClientUI
}

// Kinds of recipients and identities. That of a plugin is KindPlugin and its
// name.
const (
	KindIdentity   = "identity"
	KindSSH        = "ssh"
	KindPassphrase = "passphrase"
	KindPlugin     = "plugin:"
)

// rootPrefix begins the comment of an identity file that names the root key.
const rootPrefix = "# repository root:"

// ParseIdentityFile is that of Prompts which ask nothing.
func ParseIdentityFile(text []byte) (*IdentityFile, error) { return Prompts{}.ParseIdentityFile(text) }

// ParseIdentityFile reads an identity file: one identity of age per line,
// post-quantum, X25519 or of a plugin, among comments and empty lines; or a
// private SSH key; or what somebody typed off a paper copy (PaperText). It
// wraps ErrFormat, without quoting the file; a message about a paper copy
// names the lines that were mistyped. A plugin must be installed: ErrPlugin.
func (p Prompts) ParseIdentityFile(text []byte) (*IdentityFile, error) {
	var f *IdentityFile
	var err error
	switch {
	case bytes.Contains(text, []byte("-----BEGIN ")):
		f, err = p.parseSSHKey(text)
	case isPaper(text):
		f, err = parsePaper(text)
	default:
		f, err = p.parseLines(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read identity file: %w", err)
	}
	if f.Root, err = rootOf(text, f.Root); err != nil {
		return nil, fmt.Errorf("read identity file: %w", err)
	}
	return f, nil
}

func (p Prompts) parseLines(text []byte) (*IdentityFile, error) {
	f := &IdentityFile{}
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		id, err := p.parseIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		f.Identities = append(f.Identities, id)
	}
	if len(f.Identities) == 0 {
		return nil, malformed("no identity in it")
	}
	return f, nil
}

// parseIdentity does not pass on age's errors: some quote characters of what
// may be a mistyped secret.
func (p Prompts) parseIdentity(line string) (age.Identity, error) {
	switch {
	case strings.HasPrefix(line, prefixHybrid):
		if id, err := age.ParseHybridIdentity(line); err == nil {
			return id, nil
		}
	case strings.HasPrefix(line, prefixX25519):
		if id, err := age.ParseX25519Identity(line); err == nil {
			return id, nil
		}
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		id, err := plugin.NewIdentity(line, p.ui())
		if err != nil {
			return nil, malformed("no identity of a plugin")
		}
		if err := findPlugin(id.Name()); err != nil {
			return nil, err
		}
		return &heldIdentity{inner: id, loud: "plugin " + id.Name()}, nil
	}
	return nil, malformed("no age identity")
}

// What the text of an identity of age begins with.
const (
	prefixHybrid = "AGE-SECRET-KEY-PQ-1"
	prefixX25519 = "AGE-SECRET-KEY-1"
)

func (p Prompts) ui() *plugin.ClientUI {
	if p.Plugin == nil {
		return &plugin.ClientUI{}
	}
	return p.Plugin
}

func findPlugin(name string) error {
	if _, err := exec.LookPath("age-plugin-" + name); err != nil {
		return fmt.Errorf("%w: there is no program age-plugin-%s in the PATH", ErrPlugin, name)
	}
	return nil
}

func (p Prompts) parseSSHKey(text []byte) (*IdentityFile, error) {
	key, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return p.parseLockedSSHKey(text, locked.PublicKey)
	}
	if err != nil {
		return nil, malformed("no private SSH key")
	}
	id, err := agessh.ParseIdentity(text)
	if err != nil {
		return nil, malformed("no private SSH key of type ed25519 or RSA")
	}
	return &IdentityFile{Identities: []age.Identity{&heldIdentity{inner: id, recipient: sshText(key.PublicKey())}}}, nil
}

func (p Prompts) parseLockedSSHKey(text []byte, public ssh.PublicKey) (*IdentityFile, error) {
	if public == nil {
		return nil, malformed("encrypted SSH key in an old format: convert it with ssh-keygen -p -f FILE")
	}
	fingerprint := ssh.FingerprintSHA256(public)
	id, err := agessh.NewEncryptedSSHIdentity(public, text, func() ([]byte, error) {
		if p.Passphrase == nil {
			return nil, errors.New("nobody can be asked for it")
		}
		pass, err := p.Passphrase(fingerprint)
		return []byte(pass), err
	})
	if err != nil {
		return nil, malformed("no private SSH key of type ed25519 or RSA")
	}
	return &IdentityFile{Identities: []age.Identity{&heldIdentity{inner: id, recipient: sshText(public), loud: "SSH key " + fingerprint}}}, nil
}

// sshText is a public SSH key as a .pub file has it, without the comment.
func sshText(public ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))
}

// rootOf is the root key that the comments of an identity file name.
func rootOf(text []byte, root ed25519.PublicKey) (ed25519.PublicKey, error) {
	for i, line := range strings.Split(string(text), "\n") {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), rootPrefix)
		if !ok {
			continue
		}
		key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(value))
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, malformed("line %d: no root key of a repository", i+1)
		}
		if root != nil && !root.Equal(ed25519.PublicKey(key)) {
			return nil, malformed("line %d: the root key of a second repository", i+1)
		}
		root = key
	}
	return root, nil
}

// PinRoot adds to the text of an identity file the comment that names the
// root key of the repository it is for, so that it opens no other.
func PinRoot(text []byte, root ed25519.PublicKey) []byte {
	return fmt.Appendf(nil, "%s %s\n%s", rootPrefix, base64.StdEncoding.EncodeToString(root), text)
}
