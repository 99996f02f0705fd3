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
	"filippo.io/age/plugin"
	"golang.org/x/term"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
)

// errNoKey says that nothing that could open a repository was given or found.
var errNoKey = errors.New("no identity file and no passphrase")

// identities returns what the settings give to open a repository with. An identity at the default place counts only
// where nothing was given. store is asked whether a passphrase would help before a person is asked for one.
func (a *app) identities(ctx context.Context, store storage.Store) (repo.OpenOptions, error) {
	s := &a.settings
	if s.KeyFile != "" {
		return a.readIdentities(ctx, s.KeyFile)
	}
	if s.PasswordFile != "" || s.Password != "" {
		pass, err := a.givenPassphrase()
		if err != nil {
			return repo.OpenOptions{}, err
		}
		return a.passphraseIdentity(pass)
	}
	path, homeErr := a.env.identityFile()
	if homeErr == nil {
		o, err := a.readIdentities(ctx, path)
		if !errors.Is(err, fs.ErrNotExist) {
			return o, err
		}
	}
	if a.canAsk() {
		locked, err := hasPassphraseBundle(ctx, store)
		if err != nil {
			return repo.OpenOptions{}, err
		}
		if locked {
			pass, err := a.ask(ctx, "passphrase of the repository: ")
			if err != nil {
				return repo.OpenOptions{}, err
			}
			s.Password = pass
			return a.passphraseIdentity(pass)
		}
	}
	if homeErr != nil {
		return repo.OpenOptions{}, fmt.Errorf("%w: none was given, and there is no place to look for one: %w", errNoKey, homeErr)
	}
	return repo.OpenOptions{}, fmt.Errorf("%w: none was given, and %s is not there", errNoKey, path)
}

func (a *app) passphraseIdentity(pass secret) (repo.OpenOptions, error) {
	_, id, err := keys.Passphrase(string(pass))
	if err != nil {
		return repo.OpenOptions{}, err
	}
	if cache := a.cacheDir(); a.unattended && cache != "" {
		id = unlockedIdentity{passphrase: pass, inner: id, dir: filepath.Join(cache, "unlocked"), now: time.Now}
	}
	return repo.OpenOptions{Identities: []age.Identity{id}}, nil
}

func (a *app) readIdentities(ctx context.Context, path string) (repo.OpenOptions, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return repo.OpenOptions{}, fmt.Errorf("%w: %w", errNoKey, err)
	}
	if err != nil {
		return repo.OpenOptions{}, fmt.Errorf("read identity file: %w", err)
	}
	f, err := a.prompts(ctx).ParseIdentityFile(text)
	if err != nil {
		return repo.OpenOptions{}, fmt.Errorf("%w (%s)", err, path)
	}
	return repo.OpenOptions{Identities: f.Identities, Root: f.Root}, nil
}

// prompts are what an encrypted SSH key and the plugins of age may ask: the passphrase once in a command, and both only where somebody is there.
func (a *app) prompts(ctx context.Context) keys.Prompts {
	p := keys.Prompts{Passphrase: func(fingerprint string) (string, error) {
		if pass, ok := a.sshPassphrases[fingerprint]; ok {
			return string(pass), nil
		}
		if !a.canAsk() {
			return "", errors.New("it is encrypted, and nobody is there to be asked for its passphrase: ssh-keygen -p makes a copy without one, or give this host an identity of its own")
		}
		pass, err := a.ask(ctx, "passphrase of the SSH key "+fingerprint+": ")
		if err == nil {
			a.sshPassphrases = map[string]secret{fingerprint: pass}
		}
		return string(pass), err
	}}
	if a.canAsk() {
		say := func(format string, v ...any) { a.out.info(format, v...) }
		p.Plugin = plugin.NewTerminalUI(say, func(format string, v ...any) { a.out.warn(format, v...) })
	}
	return p
}

// givenPassphrase returns the passphrase of the settings, "" where there is none.
func (a *app) givenPassphrase() (secret, error) {
	s := &a.settings
	if s.PasswordFile == "" {
		return s.Password, nil
	}
	pass, err := a.firstLine(s.PasswordFile)
	if err == nil {
		s.Password = pass
	}
	return pass, err
}

// firstLine reads the passphrase in a file.
func (a *app) firstLine(path string) (secret, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", usageError{err: fmt.Errorf("the first line of the password file %s is empty", path)}
	}
	a.told = append(a.told, secret(line))
	return secret(line), nil
}

// hasPassphraseBundle says whether the repository holds a key bundle that a passphrase opens. An age file names the
// kind of its recipients in plain text.
func hasPassphraseBundle(ctx context.Context, store storage.Store) (bool, error) {
	found := false
	err := store.List(ctx, "keys/", func(i storage.Info) error {
		if _, what, _ := strings.Cut(i.Key, "."); found || strings.HasPrefix(what, "entry") || strings.HasPrefix(what, "remov") { // which is said of a key, and no bundle
			return nil
		}
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
		a.told = append(a.told, secret(got.text))
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
