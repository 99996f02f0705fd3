package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal at which somebody types lines ahead.
func terminal(t *testing.T, typed ...string) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = master.Close(), slave.Close() })
	for _, line := range typed {
		if _, err := master.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	return slave
}

// atTerminal runs the program as somebody does who sits at a terminal.
func atTerminal(t *testing.T, stdin *os.File, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out bytes.Buffer
	errs := &lockedBuffer{}
	a := newApp()
	a.stdin, a.stdout, a.stderr = stdin, &out, errs
	a.env = environmentOf(nil)
	a.out = &output{stdout: &out, stderr: errs}
	root := newRootCommand(a)
	args = append([]string{"--config", os.DevNull}, args...)
	root.SetArgs(args)
	code = a.report(root.ExecuteContext(t.Context()), exitPolicyOf(root, args))
	return code, out.String(), errs.String()
}

// sshKey writes a new SSH key, encrypted unless pass is "", and returns the path of the private half; .pub stands behind the other's.
func sshKey(t *testing.T, pass string) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if pass != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(pass))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id_ed25519")
	for file, text := range map[string][]byte{path: pem.EncodeToMemory(block), path + ".pub": ssh.MarshalAuthorizedKey(key)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestAnSSHKeyOpensARepositoryAndItsPassphraseIsAskedForOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in, owner := filepath.Join(dir, "repo"), filepath.Join(dir, "owner")
	run := func(stdin *os.File, want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := atTerminal(t, stdin, append([]string{"--repo", in}, args...)...)
		if code != want {
			t.Fatalf("%v: exit %d, want %d: %s%s", args, code, want, stdout, stderr)
		}
		return stdout, stderr
	}
	run(nil, 0, "--key-file", owner, "init")
	plain, encrypted := sshKey(t, ""), sshKey(t, "battery-staple")
	run(nil, 2, "--key-file", owner, "key", "add", "--role", "writer", "--name", "wrong", "--ssh-key", plain)
	_, _ = run(nil, 0, "--key-file", owner, "key", "add", "--role", "writer", "--name", "plain", "--ssh-key", plain+".pub")
	stdout, _ := run(nil, 0, "--key-file", owner, "key", "add", "--role", "writer", "--name", "encrypted", "--ssh-key", encrypted+".pub", "--json")
	if !strings.Contains(stdout, `"kind":"ssh"`) {
		t.Error(stdout)
	}
	if stdout, _ := run(nil, 0, "--key-file", plain, "key", "list"); !strings.Contains(stdout, "ssh") {
		t.Error(stdout)
	}
	if _, stderr := run(nil, 8, "--key-file", encrypted, "snapshots"); !strings.Contains(stderr, "nobody is there to be asked") {
		t.Error(stderr)
	}
	bundle, _, _ := strings.Cut(strings.TrimPrefix(stdout, `{"type":"key","id":"`), `"`)
	_, stderr := run(terminal(t, "battery-staple"), 0, "--key-file", encrypted, "inspect", "keys/"+bundle) // which opens the bundle twice
	if strings.Count(stderr, "passphrase of the SSH key SHA256:") != 1 || strings.Contains(stderr, "battery") {
		t.Error(stderr)
	}
	run(nil, 0, "--key-file", owner, "key", "rotate", "--data") // which wraps for SSH keys again
	run(terminal(t, "battery-staple"), 0, "--key-file", encrypted, "snapshots")
}

func TestAPassphraseIsAskedForOnceAndAnotherTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := filepath.Join(dir, "repo")
	run := func(stdin *os.File, want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := atTerminal(t, stdin, append([]string{"--repo", in}, args...)...)
		if code != want {
			t.Fatalf("%v: exit %d, want %d: %s%s", args, code, want, stdout, stderr)
		}
		return stdout, stderr
	}
	run(terminal(t, "correct horse", "correct horse"), 0, "init", "--passphrase")
	_, stderr := run(terminal(t, "correct horse", "battery staple", "battery staple"), 0, "key", "add", "--role", "owner", "--name", "second", "--passphrase")
	if strings.Count(stderr, "passphrase of the repository: ") != 1 || strings.Count(stderr, "new passphrase: ") != 1 {
		t.Error(stderr)
	}
	_, stderr = run(terminal(t, "correct horse", "battery staple"), 0, "key", "rotate", "--data")
	if !strings.Contains(stderr, "passphrase of the key second (") || strings.Count(stderr, "passphrase of") != 2 || strings.Contains(stderr, "battery") {
		t.Error(stderr)
	}
	run(terminal(t, "battery staple"), 0, "snapshots")
}
