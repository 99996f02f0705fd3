package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// exitRule maps one error to an exit code and to what a person can do about it. The first rule that fits decides, so
// the special ones stand before the general ones. docs/exit-codes.md is generated from the table.
type exitRule struct {
	name    string // of the error, for the documentation
	is      error  // fits what errors.Is says, or
	as      func(error) bool
	code    int
	meaning string
	hint    string
	// ofBucket is the hint instead, where the repository is in object storage.
	ofBucket string
	hintOf   func(error) string // instead of both, where the error knows better
}

func (r exitRule) fits(err error) bool {
	if r.as != nil {
		return r.as(err)
	}
	return errors.Is(err, r.is)
}

// advice is the hint for err. remote: the repository is in object storage.
func (r exitRule) advice(err error, remote bool) string {
	if r.hintOf != nil {
		if h := r.hintOf(err); h != "" {
			return h
		}
	}
	if remote && r.ofBucket != "" {
		return r.ofBucket
	}
	return r.hint
}

func isA[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}

// codeMeanings are the classes of the documentation, in order.
func codeMeanings() []struct {
	code    int
	meaning string
} {
	return []struct {
		code    int
		meaning string
	}{
		{codeDone, "done"},
		{codeOther, "unclassified, or interrupted"},
		{codeUsage, "usage or configuration"},
		{codeIncomplete, "done, but incomplete: the message says what is missing"},
		{codeAbsent, "no such repository, snapshot or segment"},
		{codeRefused, "refused: a check said no, nothing was changed"},
		{codeBusy, "busy"},
		{codeUnreachable, "storage or server unreachable, after retries"},
		{codeLocked, "locked out: no key opens it, or credentials rejected"},
		{codeDamaged, "damaged: authentication or checksum failed"},
		{codeFetch, "only `wal fetch`: every failure that is not \"absent\""},
	}
}

// classify finds the rule for an error; the last one fits all.
func classify(err error) exitRule {
	rules := exitRules()
	for _, r := range rules[:len(rules)-1] {
		if r.fits(err) {
			return r
		}
	}
	return rules[len(rules)-1]
}

// exitPolicy is how a command turns an error into an exit code. All but wal fetch use the table as it is.
type exitPolicy struct {
	command string
	fetch   bool // it is wal fetch, or would be if it were not mistyped
	push    bool
	behind  bool // wal prefetch, which nobody waits for
	strict  bool
}

// fetchAnnotation marks the command whose exit code PostgreSQL's recovery reads.
const fetchAnnotation = "restore_command"

// exitPolicyOf looks for the command that args mean, before anything can go wrong in it: even an unknown flag or a
// mistyped command in restore_command must not read as "the archive ends here".
func exitPolicyOf(root *cobra.Command, args []string) exitPolicy {
	cmd, _, err := root.Find(args)
	p := exitPolicy{command: root.CommandPath()}
	if err == nil {
		p.command = cmd.CommandPath()
		p.fetch = cmd.Annotations[fetchAnnotation] != ""
	}
	wal := slices.Index(args, "wal")
	p.fetch = p.fetch || wal >= 0 && slices.Contains(args[wal:], "fetch")
	p.behind = wal >= 0 && slices.Contains(args[wal:], "prefetch")
	p.push = wal >= 0 && slices.Contains(args[wal:], "push")
	if err != nil || cmd.HasSubCommands() { // no command: is it PostgreSQL that asks?
		p.fetch = p.fetch || slices.ContainsFunc(args, isWALFile)
	}
	p.strict = slices.Contains(args, "--strict") || slices.Contains(args, "--strict=true")
	return p
}

func isWALFile(arg string) bool {
	_, err := pg.ClassifyWALFile(arg)
	return err == nil
}

// prepare makes sure that even a crash of the program is no exit code below 126: the Go runtime ends a crashed
// process with 2, which recovery would take for the end of the archive; killed by a signal it gives up instead. No
// core file is written, it would hold keys. And where the server's log is gone, a message that cannot be written must
// not decide what becomes of a WAL file.
func (p exitPolicy) prepare() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if p.fetch {
		debug.SetTraceback("crash")
	}
	if p.fetch || p.push {
		signal.Ignore(syscall.SIGPIPE)
	}
}

// code returns the exit code for err. PostgreSQL reads 1 to 125 from restore_command as "the archive ends here" and
// promotes, so wal fetch says 126 unless the file is really absent. On a standby 126 would shut the replica down; 7
// makes it ask again, and it cannot promote by itself.
func (p exitPolicy) code(err error) int {
	if err == nil {
		return codeDone
	}
	if p.behind {
		return codeOther
	}
	if !p.fetch {
		return classify(err).code
	}
	if errors.Is(err, errAbsentFile) {
		return codeAbsent
	}
	if onStandby() && !p.strict {
		return codeUnreachable
	}
	return codeFetch
}

// onStandby says whether the working directory is that of a standby.
func onStandby() bool {
	_, err := os.Stat("standby.signal")
	return err == nil
}

// errAbsentFile says that the archive was reached, and does not hold the file that wal fetch asked for.
var errAbsentFile = errors.New("not in the archive")

// report prints an error in the one form that all messages have and returns the exit code.
func (a *app) report(err error, policy exitPolicy) int {
	if err == nil {
		return codeDone
	}
	var usage usageError
	if !a.started && !errors.As(err, &usage) {
		err = usageError{err: err, command: policy.command}
	}
	a.out.line("", "pgtrove: %s", a.redact(err.Error()))
	if h := a.hint(err); h != "" {
		a.out.line("", "hint: %s", a.redact(h))
	}
	return policy.code(err)
}

func (a *app) hint(err error) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	var usage usageError
	if errors.As(err, &usage) {
		switch {
		case usage.hint != "":
			return usage.hint
		case usage.command != "":
			return fmt.Sprintf("see `%s --help`", usage.command)
		}
		return ""
	}
	return classify(err).advice(err, isRemote(a.settings.Repo))
}

// redact is the last line of defence: no message shows the passphrase, whatever a library put into it.
func (a *app) redact(text string) string {
	secrets := append([]secret{a.settings.Password}, a.told...)
	if v, ok := a.env.get("PGPASSWORD"); ok {
		secrets = append(secrets, secret(v))
	}
	for _, s := range secrets {
		if len(s) >= 6 { // shorter ones occur in ordinary words
			text = strings.ReplaceAll(text, string(s), "***")
		}
	}
	return text
}
