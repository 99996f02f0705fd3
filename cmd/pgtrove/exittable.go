package main

import (
	"io/fs"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

// exitRules is the one table of errors, exit codes and hints. docs/exit-codes.md is generated from it
// (go test ./cmd/pgtrove -run ExitCodesPage -update).
func exitRules() []exitRule {
	var rules []exitRule
	for _, part := range [][]exitRule{commandRules(), repositoryRules(), clusterRules(), storageRules()} {
		rules = append(rules, part...)
	}
	return append(rules, exitRule{name: "any other", code: codeOther, meaning: "not classified"})
}

func commandRules() []exitRule {
	return []exitRule{
		{name: "interrupted", is: errInterrupted, code: codeOther,
			meaning: "a signal ended the command; nothing half-done is visible"},
		{name: "usage", as: isA[usageError], code: codeUsage,
			meaning: "the command line, the environment or the configuration file is wrong"},
		{name: "incomplete", is: errIncomplete, code: codeIncomplete,
			meaning: "the command did its work, but something is missing from it"},
		{name: "refused", is: errRefused, code: codeRefused,
			meaning: "a check of the command said no"},
		{name: "absent file", is: errAbsentFile, code: codeAbsent,
			meaning: "the archive was read and does not hold the WAL file"},
	}
}

func repositoryRules() []exitRule {
	return []exitRule{
		{name: "`repo.ErrNoRepository`", is: repo.ErrNoRepository, code: codeAbsent,
			meaning: "no repository at this place",
			hint:    "check --repo (or PGTROVE_REPO) and that its file system is mounted; `pgtrove init` makes a new repository"},
		{name: "`repo.ErrExists`", is: repo.ErrExists, code: codeRefused,
			meaning: "a repository is there already",
			hint:    "use it as it is, or make the new one in another directory"},
		{name: "`repo.ErrNotEmpty`", is: repo.ErrNotEmpty, code: codeRefused,
			meaning: "the place for a new repository holds other things",
			hint:    "give --repo an empty or a new directory"},
		{name: "`repo.ErrVersion`", is: repo.ErrVersion, code: codeRefused,
			meaning: "the repository, or an object in it, was written by a newer program",
			hint:    "update pgtrove on this machine"},
		{name: "`repo.ErrConflict`", is: repo.ErrConflict, code: codeRefused,
			meaning: "the archive holds this WAL file with other content, which stays",
			hint:    "two servers may be archiving under one cluster name: give each its own --cluster"},
		{name: "`repo.ErrFenced`", is: repo.ErrFenced, code: codeOther,
			meaning: "someone else ended this backup before it could commit",
			hint:    "run the backup again; what it uploaded is used again"},
		{name: "`keys.ErrLocked`", is: keys.ErrLocked, code: codeLocked,
			meaning: "the identity or passphrase opens no key of the repository",
			hint:    "give the identity file that `pgtrove init` made (--key-file, PGTROVE_KEY_FILE) or the passphrase (--password-file, PGTROVE_PASSWORD)"},
		{name: "no key", is: errNoKey, code: codeLocked,
			meaning: "neither identity file nor passphrase was given or found",
			hint:    "give the identity file that `pgtrove init` made (--key-file, PGTROVE_KEY_FILE) or the passphrase (--password-file, PGTROVE_PASSWORD)"},
		{name: "`keys.ErrRole`", is: keys.ErrRole, code: codeLocked,
			meaning: "the key may not read this",
			hint:    "use a key of the role owner"},
		{name: "`keys.ErrFormat`", is: keys.ErrFormat, code: codeLocked,
			meaning: "the identity file is none",
			hint:    "give the file that `pgtrove init` made, unchanged"},
		{name: "`keys.ErrVersion`", is: keys.ErrVersion, code: codeRefused,
			meaning: "a key was written by a newer program",
			hint:    "update pgtrove on this machine"},
		{name: "`repo.ErrDamaged`", is: repo.ErrDamaged, code: codeDamaged,
			meaning: "an object of the repository is not what was written",
			hint:    "`pgtrove verify --read-data` says which snapshots are concerned"},
		{name: "`repo.ErrMissing`", is: repo.ErrMissing, code: codeDamaged,
			meaning: "an object that a snapshot needs is not there",
			hint:    "`pgtrove verify` says which snapshots are concerned"},
		{name: "`keys.ErrDamaged`", is: keys.ErrDamaged, code: codeDamaged,
			meaning: "something sealed does not authenticate"},
		{name: "`snapshot.ErrInvalid`", is: snapshot.ErrInvalid, code: codeDamaged,
			meaning: "a snapshot's own data breaks its format"},
	}
}

func clusterRules() []exitRule {
	return []exitRule{
		{name: "`snapshot.ErrNotFound`", is: snapshot.ErrNotFound, code: codeAbsent,
			meaning: "no such snapshot",
			hint:    "`pgtrove snapshots` lists them; --cluster chooses the cluster"},
		{name: "`snapshot.ErrAmbiguous`", is: snapshot.ErrAmbiguous, code: codeUsage,
			meaning: "the abbreviation fits several snapshots",
			hint:    "give more of the ID"},
		{name: "`walarchive.ErrDamaged`", is: walarchive.ErrDamaged, code: codeDamaged,
			meaning: "a WAL file in the repository is not what was pushed"},
		{name: "`walarchive.ErrInvalid`", is: walarchive.ErrInvalid, code: codeRefused,
			meaning: "not a WAL file that PostgreSQL archives, or one that is cut short"},
	}
}

// storageRules come last: they are the causes below everything else.
func storageRules() []exitRule {
	return []exitRule{
		{name: "`storage.ErrUnreachable`", is: storage.ErrUnreachable, code: codeUnreachable,
			meaning: "the storage is gone or does not answer",
			hint:    "is the repository's file system mounted?"},
		{name: "`storage.ErrFull`", is: storage.ErrFull, code: codeUnreachable,
			meaning: "no room in the storage; nothing half-written is visible",
			hint:    "make room where the repository is, then run the command again: what it stored before is used again"},
		{name: "`storage.ErrReadOnly`", is: storage.ErrReadOnly, code: codeUnreachable,
			meaning: "the storage takes no writes",
			hint:    "mount the repository's file system for writing"},
		{name: "`storage.ErrDenied`", is: storage.ErrDenied, code: codeLocked,
			meaning: "the storage refuses this account",
			hint:    "run as the account that owns the repository, or give this one access to it"},
		{name: "`fs.ErrPermission`", is: fs.ErrPermission, code: codeLocked,
			meaning: "this account may not read or write a file",
			hint:    "run as the account that owns the file, usually postgres, or give this one access"},
	}
}
