package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pgtrove/pgtrove/storage/meter"
	"github.com/pgtrove/pgtrove/storage/s3"
)

// app is what every command shares: the outside world and, once a command runs, its settings.
type app struct {
	stdin  *os.File
	stdout io.Writer
	stderr io.Writer
	env    environment
	// systemConfig is read when neither --config nor PGTROVE_CONFIG names a file, and only if it exists.
	systemConfig string

	settings settings
	started  bool // the command line was understood: what fails now is no usage error
	// unattended commands never ask, and remember what a passphrase opens.
	unattended bool
	// recoveryKey is the identity file that restore_command is to use, "" for what this command uses.
	recoveryKey string
	// told are the passphrases that a person or a file has told, which no message shows.
	told []secret
	// sshPassphrases are those that were asked for, by the fingerprint of the SSH key.
	sshPassphrases map[string]secret
	// meter counts what the storage is asked for, once one is open.
	meter *meter.Store
	// remote is the driver, if the repository is in object storage.
	remote *s3.Store
	// retrying is told of every request that is about to be tried again.
	retrying atomic.Pointer[func()]
	out      *output
}

func newApp() *app {
	a := &app{
		stdin:        os.Stdin,
		stdout:       os.Stdout,
		stderr:       os.Stderr,
		env:          environment{lookup: os.LookupEnv, accountHome: accountHome},
		systemConfig: "/etc/pgtrove/pgtrove.toml",
	}
	a.out = &output{stdout: a.stdout, stderr: a.stderr, terminal: a.isTerminal()}
	return a
}

// isTerminal says whether progress may be drawn with cursor movements. A terminal that does not know its size gets
// lines instead.
func (a *app) isTerminal() bool {
	f, ok := a.stderr.(*os.File)
	if name, _ := a.env.lookup("TERM"); !ok || name == "" || name == "dumb" {
		return false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 && height > 0
}

// newRootCommand puts the command line together.
func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "pgtrove",
		Short: "Backups of PostgreSQL clusters in a deduplicating, encrypted repository",
		Long: `pgtrove keeps backups of PostgreSQL clusters in a deduplicating, encrypted repository.

Every setting below can also be given in the environment, or under its own name in a configuration file
(--config, PGTROVE_CONFIG, else ` + a.systemConfig + ` if it exists). A flag wins over the environment,
the environment over the file.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version(),
	}
	root.SetVersionTemplate("pgtrove {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = false
	addSettings(root.PersistentFlags())
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{err: lowerFirst(err), command: cmd.CommandPath()}
	})
	group(root)
	for _, c := range a.commands() {
		root.AddCommand(c)
	}
	inTableOrder(root)
	return root
}

// commands lists everything the program does, in the order of its life with a cluster.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		newInitCommand(a),
		newBackupCommand(a),
		newSnapshotsCommand(a),
		newRestoreCommand(a),
		newForgetCommand(a),
		newPinCommand(a),
		newUnpinCommand(a),
		newPruneCommand(a),
		newWALCommand(a),
		newInfoCommand(a),
		newCheckCommand(a),
		newKeyCommand(a),
		newVerifyCommand(a),
		newRebuildIndexCommand(a),
		newInspectCommand(a),
		newVersionCommand(a),
	}
}

func newWALCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "wal", Short: "Archive and fetch write-ahead log"}
	group(c)
	c.AddCommand(newWALPushCommand(a), newWALFetchCommand(a), newWALPrefetchCommand(a), newWALReceiveCommand(a), newWALListCommand(a))
	return c
}

// group makes c a command that only holds others: without one it prints its help, with an unknown one it fails.
func group(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usageError{err: err, command: cmd.CommandPath(), hint: fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), near[0])}
		}
		return usageError{err: err, command: cmd.CommandPath()}
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), cmd.UsageString())
		return usageError{err: errors.New("no command given"), command: cmd.CommandPath()}
	}
}

// run wraps what a command does: settings first, and its context without cobra.
func (a *app) run(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := loadSettings(cmd.Flags(), a.env, a.systemConfig)
		if err != nil {
			return err
		}
		a.settings, a.started = s, true
		a.out.json, a.out.quiet, a.out.verbose = s.JSON, s.Quiet, s.Verbose
		defer a.showTraffic()
		return do(cmd.Context(), args)
	}
}

// exactly is cobra.ExactArgs with our form of message; names are those of the arguments.
func exactly(names ...string) cobra.PositionalArgs {
	return between(len(names), names...)
}

// between accepts at least least of the named arguments and no more than there are names.
func between(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usageError{err: fmt.Errorf("%s is missing", names[len(args)]), command: cmd.CommandPath()}
		case len(args) > len(names):
			return usageError{err: fmt.Errorf("unexpected argument %q", args[len(names)]), command: cmd.CommandPath()}
		}
		return nil
	}
}

// lowerFirst gives messages of libraries the form of ours.
func lowerFirst(err error) error {
	s := err.Error()
	if s == "" {
		return err
	}
	return errors.New(strings.ToLower(s[:1]) + s[1:])
}

// inTableOrder shows flags in the order in which they were declared.
func inTableOrder(c *cobra.Command) {
	c.Flags().SortFlags = false
	c.LocalFlags().SortFlags = false
	c.InheritedFlags().SortFlags = false
	for _, sub := range c.Commands() {
		inTableOrder(sub)
	}
}
