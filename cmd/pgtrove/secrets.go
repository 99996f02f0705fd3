package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/term"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
)

// errNoKey says that nothing that could open a repository was given or found.
var errNoKey = errors.New("no identity file and no passphrase")

// identities returns what the settings give to open a repository with. An identity at the default place counts only
// where nothing was given. store is asked whether a passphrase would help before a person is asked for one.
func (a *app) identities(ctx context.Context, store storage.Store) ([]age.Identity, error) {
	s := &a.settings
	if s.KeyFile != "" {
		return readIdentities(s.KeyFile)
	}
	if s.PasswordFile != "" || s.Password != "" {
		pass, err := a.givenPassphrase()
		if err != nil {
			return nil, err
		}
		return a.passphraseIdentity(pass)
	}
	path, homeErr := a.env.identityFile()
	if homeErr == nil {
		ids, err := readIdentities(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return ids, err
		}
	}
	if a.canAsk() {
		locked, err := hasPassphraseBundle(ctx, store)
		if err != nil {
			return nil, err
		}
		if locked {
			pass, err := a.ask(ctx, "passphrase of the repository: ")
			if err != nil {
				return nil, err
			}
			return a.passphraseIdentity(pass)
		}
	}
	if homeErr != nil {
		return nil, fmt.Errorf("%w: none was given, and there is no place to look for one: %w", errNoKey, homeErr)
	}
	return nil, fmt.Errorf("%w: none was given, and %s is not there", errNoKey, path)
}

func (a *app) passphraseIdentity(pass secret) ([]age.Identity, error) {
	_, id, err := keys.Passphrase(string(pass))
	if err != nil {
		return nil, err
	}
	if cache := a.cacheDir(); a.unattended && cache != "" {
		id = unlockedIdentity{passphrase: pass, inner: id, dir: filepath.Join(cache, "unlocked"), now: time.Now}
	}
	return []age.Identity{id}, nil
}

func readIdentities(path string) ([]age.Identity, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoKey, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read identity file: %w", err)
	}
	file, err := keys.ParseIdentityFile(text)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, path)
	}
	return file.Identities, nil
}

// givenPassphrase returns the passphrase of the settings, "" where there is none.
func (a *app) givenPassphrase() (secret, error) {
	s := &a.settings
	if s.PasswordFile == "" {
		return s.Password, nil
	}
	text, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", usageError{err: fmt.Errorf("the first line of the password file %s is empty", s.PasswordFile)}
	}
	s.Password = secret(line) // so that no message shows it
	return s.Password, nil
}

// hasPassphraseBundle says whether the repository holds a key bundle that a passphrase opens. An age file names the
// kind of its recipients in plain text.
func hasPassphraseBundle(ctx context.Context, store storage.Store) (bool, error) {
	found := false
	err := store.List(ctx, "keys/", func(i storage.Info) error {
		head, err := store.Get(ctx, i.Key, storage.Range{Len: 256}, nil)
		if err != nil {
			return err
		}
		found = found || bytes.Contains(head, []byte("\n-> scrypt "))
		return nil
	})
	return found, err
}

// canAsk says whether a person sits at stdin. A server started by hand hands its terminal on to archive_command.
func (a *app) canAsk() bool {
	return !a.unattended && a.stdin != nil && term.IsTerminal(int(a.stdin.Fd()))
}

// ask reads a secret from the terminal without echo. When ctx ends first the terminal is put back in order; the read
// itself cannot be called off and ends with the process.
func (a *app) ask(ctx context.Context, prompt string) (secret, error) {
	fd := int(a.stdin.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read passphrase from the terminal: %w", err)
	}
	_, _ = fmt.Fprint(a.stderr, prompt)
	type answer struct {
		text []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- answer{text, err}
	}()
	select {
	case got := <-read:
		_, _ = fmt.Fprintln(a.stderr)
		if got.err != nil {
			return "", fmt.Errorf("read passphrase from the terminal: %w", got.err)
		}
		a.settings.Password = secret(got.text)
		return secret(got.text), nil
	case <-ctx.Done():
		_ = term.Restore(fd, state)
		_, _ = fmt.Fprintln(a.stderr)
		return "", ctx.Err()
	}
}

// askNew reads a new passphrase twice.
func (a *app) askNew(ctx context.Context) (secret, error) {
	if !a.canAsk() {
		return "", withHint(usageError{err: errors.New("--passphrase asks on the terminal, and stdin is none")},
			"give --password-file, PGTROVE_PASSWORD_FILE or PGTROVE_PASSWORD instead")
	}
	first, err := a.ask(ctx, "new passphrase: ")
	if err != nil {
		return "", err
	}
	again, err := a.ask(ctx, "the same again: ")
	if err != nil {
		return "", err
	}
	switch {
	case first == "":
		return "", usageError{err: errors.New("the passphrase is empty")}
	case first != again:
		return "", usageError{err: errors.New("the two passphrases differ")}
	}
	return first, nil
}
