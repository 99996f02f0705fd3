package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/keys"
)

func newKeyExportCommand(a *app) *cobra.Command {
	paper, output := false, ""
	c := &cobra.Command{
		Use:   "export --paper",
		Short: "Print the identity that is in use, for a paper copy",
		Long: `Print the identity file that is in use (--key-file) in a form that survives paper: short groups of letters in numbered lines, each with a
check, so that whoever types it in again is told which line is wrong. Print it, and keep it where no computer reads it:

  pgtrove key export --paper | lp

What was typed from it, with its line numbers, opens the repository as the file did: give the text as --key-file. Where a repository is
given, it is opened first, to make sure that the copy is worth its paper. A passphrase needs no export: write it down.`,
		Args: exactly(),
	}
	c.Flags().BoolVar(&paper, "paper", false, "as text for paper; there is no other form: a file is copied as it is")
	c.Flags().StringVar(&output, "output", "", "write it to `file`, never over an existing one, and not to standard output")
	c.RunE = a.run(func(ctx context.Context, _ []string) error {
		if !paper {
			return usageError{err: errors.New("say in what form: --paper; a copy of the identity file itself is made with cp"), command: "pgtrove key export"}
		}
		return a.keyExport(ctx, output)
	})
	return c
}

type paperJSON struct {
	Type string `json:"type"` // "paper"
	File string `json:"file,omitempty"`
	Text string `json:"text,omitempty"`
}

func (a *app) keyExport(ctx context.Context, output string) error {
	path := a.keyFileInUse()
	if path == "" {
		return withHint(refused("key export: the repository is opened with a passphrase, and there is no identity to print"),
			"write the passphrase down; or name an identity file with --key-file FILE")
	}
	file, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("key export: %w: %w", errNoKey, err)
	}
	if err != nil {
		return fmt.Errorf("key export: read identity file: %w", err)
	}
	about, err := a.aboutKey(ctx)
	if err != nil {
		return err
	}
	text, err := keys.PaperText(file, about)
	if err != nil {
		return fmt.Errorf("key export: %w (%s)", err, path)
	}
	j := paperJSON{Type: "paper", Text: text}
	if output != "" {
		if j.File, err = absolute(output); err != nil {
			return err
		}
		if err := durable.Create(j.File, 0o600, []byte(text)); errors.Is(err, fs.ErrExist) {
			return withHint(refused("key export: %s exists, and is not overwritten", j.File), "choose another place with --output FILE")
		} else if err != nil {
			return fmt.Errorf("key export: write %s: %w", j.File, err)
		}
		j.Text = ""
		a.out.info("written to %s: print it, and remove the file", j.File)
	}
	switch {
	case a.settings.JSON:
		return a.out.object(j)
	case output == "":
		return a.out.print("%s", text)
	}
	return nil
}

// aboutKey is what the paper says besides: which repository the identity opens, and as what.
func (a *app) aboutKey(ctx context.Context) (keys.Paper, error) {
	if a.settings.Repo == "" {
		a.out.warn("no repository is given, so it was not tried whether this identity opens it")
		return keys.Paper{}, nil
	}
	r, err := a.openRepository(ctx)
	if err != nil {
		return keys.Paper{}, err
	}
	p := keys.Paper{Repository: r.Config().ID, Role: r.Role()}
	if c := r.Certificate(); c != nil {
		p.Name, p.Created = c.Name, c.Created
	}
	p.Location, err = a.repositoryName()
	return p, err
}
