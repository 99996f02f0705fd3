package main

import (
	"errors"
	"fmt"
)

// Exit codes, as the documentation of the command line promises them.
const (
	codeDone        = 0
	codeOther       = 1
	codeUsage       = 2
	codeIncomplete  = 3
	codeAbsent      = 4
	codeRefused     = 5
	codeBusy        = 6
	codeUnreachable = 7
	codeLocked      = 8
	codeDamaged     = 9
	codeFetch       = 126 // wal fetch: every failure that is not "absent"
)

var (
	errInterrupted = errors.New("interrupted")
	// errIncomplete says that what was asked for was done, but something is missing from it.
	errIncomplete = errors.New("incomplete")
	// errRefused says that a check of this package said no before anything was changed.
	errRefused = errors.New("refused")
)

// usageError is a mistake on the command line or in the configuration.
type usageError struct {
	err     error
	command string // whose help explains it
	hint    string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// interruptedError hides how an interrupted command failed: the signal was the reason.
type interruptedError struct{ err error }

func (interruptedError) Error() string { return "interrupted" }
func (interruptedError) Unwrap() error { return errInterrupted }

// classified gives an error a class, to be asked for with errors.Is, without repeating the class's name in the message.
type classified struct {
	error
	class error
}

func (c classified) Unwrap() []error { return []error{c.error, c.class} }

func incomplete(format string, args ...any) error {
	return classified{fmt.Errorf(format, args...), errIncomplete}
}

func refused(format string, args ...any) error {
	return classified{fmt.Errorf(format, args...), errRefused}
}

// hinted is an error with advice that only the place that made it could give.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func withHint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}
