package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
)

// keyWay is what a new key shall be opened by. At most one of its fields is set; none is output at a place of our choice.
type keyWay struct {
	output         string // file for a new identity
	recipient      string
	sshKey         string // file with a public key
	passphrase     bool   // ask for it
	passphraseFile string
}

func (w *keyWay) add(f *pflag.FlagSet) {
	f.StringVar(&w.output, "output", "", "make a new identity, and write it to `file`, never over an existing one (default: NAME.txt in the user's configuration directory)")
	f.StringVar(&w.recipient, "recipient", "", "wrap it for a `recipient` of age: age1..., age1pq1..., ssh-ed25519 ..., or one of a plugin that is in the path")
	f.StringVar(&w.sshKey, "ssh-key", "", "wrap it for the SSH public key in `file`")
	f.BoolVar(&w.passphrase, "passphrase", false, "wrap it for a new passphrase, which is asked for on the terminal")
	f.StringVar(&w.passphraseFile, "passphrase-file", "", "wrap it for the new passphrase in the first line of `file`")
}

// given are the flags that say how, as they were given.
func (w *keyWay) given() (names []string) {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"--output", w.output != ""}, {"--recipient", w.recipient != ""}, {"--ssh-key", w.sshKey != ""},
		{"--passphrase", w.passphrase}, {"--passphrase-file", w.passphraseFile != ""},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

func (w *keyWay) validate(command string) error {
	if given := w.given(); len(given) > 1 {
		return usageError{err: fmt.Errorf("%s: give one", strings.Join(given, " and ")), command: command}
	}
	return nil
}

// newOpener is what will open a new key.
type newOpener struct {
	recipient repo.Recipient
	file      string // the identity that was made for it; "" if there is none
}

// undo takes back the identity that was made.
func (o newOpener) undo() {
	if o.file != "" {
		_ = os.Remove(o.file)
	}
}

// opener makes ready what will open the new key name. An identity file is durable when it returns.
func (a *app) opener(ctx context.Context, w *keyWay, name string, root ed25519.PublicKey) (newOpener, error) {
	switch {
	case w.recipient != "":
		r, err := parseRecipient(w.recipient)
		return newOpener{recipient: r}, err
	case w.sshKey != "":
		r, err := sshRecipient(w.sshKey)
		return newOpener{recipient: r}, err
	case w.passphrase || w.passphraseFile != "":
		r, err := a.newPassphraseRecipient(ctx, w)
		return newOpener{recipient: r}, err
	}
	file, err := a.newKeyPath(w.output, name)
	if err != nil {
		return newOpener{}, err
	}
	r, err := makeIdentity(file, root, "--output")
	if err != nil {
		return newOpener{}, err
	}
	r.Proven = true
	return newOpener{recipient: r, file: file}, nil
}

// parseRecipient reads a recipient of age from the command line.
func parseRecipient(text string) (repo.Recipient, error) {
	r, kind, err := keys.ParseRecipient(text)
	if err != nil {
		return repo.Recipient{}, usageError{err: fmt.Errorf("recipient %s: %w", shortened(text), err),
			hint: "a recipient is the public half of a key: age1..., age1pq1..., ssh-ed25519 ..., ssh-rsa ..., or that of an age plugin which is in the path"}
	}
	return repo.Recipient{Recipient: r, Text: text, Kind: kind}, nil
}

// shortened is text as a message shows it: recipients of the post-quantum kind are two thousand letters long.
func shortened(text string) string {
	if len(text) > 40 {
		return text[:32] + "..."
	}
	return text
}

// sshRecipient reads an SSH public key.
func sshRecipient(path string) (repo.Recipient, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return repo.Recipient{}, fmt.Errorf("read SSH public key: %w", err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if strings.Contains(line, "PRIVATE KEY") {
		return repo.Recipient{}, withHint(usageError{err: fmt.Errorf("--ssh-key %s: this is a private key", path)},
			"give the public one, %s.pub: the private one stays where it is, and is the identity file (--key-file) of its owner", path)
	}
	r, err := parseRecipient(strings.TrimSpace(line))
	if err != nil {
		return r, fmt.Errorf("--ssh-key %s: %w", path, err)
	}
	return r, nil
}

// newPassphraseRecipient asks for a new passphrase, or reads it.
func (a *app) newPassphraseRecipient(ctx context.Context, w *keyWay) (repo.Recipient, error) {
	var pass secret
	var err error
	if w.passphraseFile != "" {
		pass, err = a.firstLine(w.passphraseFile)
	} else {
		pass, err = a.askNew(ctx)
	}
	if err != nil {
		return repo.Recipient{}, err
	}
	return passphraseRecipient(pass)
}

func passphraseRecipient(pass secret) (repo.Recipient, error) {
	r, _, err := keys.Passphrase(string(pass))
	return repo.Recipient{Recipient: r, Kind: keys.KindPassphrase, Proven: true}, err
}

// newKeyPath is where the identity of a new key is written: what was asked for, else the first free name among NAME.txt, NAME-2.txt and so on in the user's configuration
// directory.
func (a *app) newKeyPath(asked, name string) (string, error) {
	if asked != "" {
		return absolute(asked)
	}
	dir, err := a.env.configDir()
	if err != nil {
		return "", withHint(fmt.Errorf("find a place for the identity file: %w", err), "say where it shall be with --output FILE")
	}
	for n := 1; ; n++ {
		path := filepath.Join(dir, name+".txt")
		if n > 1 {
			path = filepath.Join(dir, fmt.Sprintf("%s-%d.txt", name, n))
		}
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) || n == 100 {
			return path, nil
		}
	}
}
