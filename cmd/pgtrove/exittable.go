package main

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/s3"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

// exitRules is the one table of errors, exit codes and hints. docs/exit-codes.md is generated from it
// (go test ./cmd/pgtrove -run ExitCodesPage -update).
func exitRules() []exitRule {
	var rules []exitRule
	for _, part := range [][]exitRule{commandRules(), receiveRules(), sourceRules(), pruneRules(), keyRules(), repositoryRules(), clusterRules(), storageRules()} {
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

func keyRules() []exitRule {
	return []exitRule{
		{name: "`keys.ErrLocked`", is: keys.ErrLocked, code: codeLocked,
			meaning: "the identity or passphrase opens no key of the repository",
			hint:    "give the identity file that `pgtrove init` or `pgtrove key add` made (--key-file, PGTROVE_KEY_FILE) or the passphrase (--password-file, PGTROVE_PASSWORD)"},
		{name: "no key", is: errNoKey, code: codeLocked,
			meaning: "neither identity file nor passphrase was given or found",
			hint:    "give the identity file that `pgtrove init` or `pgtrove key add` made (--key-file, PGTROVE_KEY_FILE) or the passphrase (--password-file, PGTROVE_PASSWORD)"},
		{name: "`keys.ErrRole`", is: keys.ErrRole, code: codeLocked,
			meaning: "the role of the key does not allow this",
			hint:    "use an owner's identity (--key-file FILE)"},
		{name: "`repo.ErrNoKey`", is: repo.ErrNoKey, code: codeAbsent,
			meaning: "the repository has no key of this name or ID",
			hint:    "`pgtrove key list` lists them"},
		{name: "`repo.ErrLastOwner`", is: repo.ErrLastOwner, code: codeRefused,
			meaning: "without this key nobody could open the backups any more",
			hint:    "give somebody else an owner's key first: `pgtrove key add --role owner`"},
		{name: "`repo.ErrInUse`", is: repo.ErrInUse, code: codeRefused,
			meaning: "an owner's key cannot remove itself: that another owner's opens the repository has to be shown first",
			hint:    "remove it with the identity of another owner (--key-file FILE)"},
		{name: "`repo.ErrUnproven`", is: repo.ErrUnproven, code: codeRefused,
			meaning: "the only owner's key is not moved to an identity that is not here: if it opens nothing, nobody could open the backups any more",
			hint:    "add it as a second owner, `pgtrove key add --role owner`, and remove this one with it; or let a new identity be made (--output)"},
		{name: "`repo.ErrStale`", is: repo.ErrStale, code: codeBusy,
			meaning: "another owner has changed the keys meanwhile",
			hint:    "run it again"},
		{name: "`repo.ErrRemoving`", is: repo.ErrRemoving, code: codeRefused,
			meaning: "a key is being removed, and must not be given new keys",
			hint:    "`pgtrove key list` shows it; finish that with `pgtrove key remove ID`, and run it again"},
		{name: "`repo.ErrClaimed`", is: repo.ErrClaimed, code: codeBusy,
			meaning: "hosts with other keys go on to commit snapshots under the name that a key was to get",
			hint:    "run it again, when no backup runs on the host of that name"},
		{name: "`keys.ErrOrigin`", is: keys.ErrOrigin, code: codeRefused,
			meaning: "something is not by whom it claims to be: a snapshot by a key that may not write it, or a bundle that the repository's root key has not certified",
			hint:    "`pgtrove key list` says which key may write for which cluster; each host has a key of its own, which has its name"},
		{name: "`repo.ErrName`", is: repo.ErrName, code: codeRefused,
			meaning: "another key has this name",
			hint:    "`pgtrove key rotate NAME` makes a new identity for it; or give another --name"},
		{name: "`repo.PassphraseError`", as: isA[*repo.PassphraseError], code: codeRefused,
			meaning: "a key that a passphrase opens would have to be wrapped again, and nobody told the passphrase; nothing was changed",
			hint:    "run it on a terminal, where it is asked for; or `pgtrove key rotate NAME` gives that key an identity, or `pgtrove key remove NAME`"},
		{name: "`repo.ErrUnsigned`", is: repo.ErrUnsigned, code: codeRefused,
			meaning: "the repository was made by an older version, and has one key for all",
			hint:    "`pgtrove init` makes a new repository with keys for each host; back up into that, and keep the old one as long as you need it"},
		{name: "`keys.ErrPlugin`", is: keys.ErrPlugin, code: codeLocked,
			meaning: "an identity or a recipient needs a plugin of age that is not there",
			hint:    "install the plugin, age-plugin-NAME, where this account's PATH finds it"},
		{name: "`keys.ErrFormat`", is: keys.ErrFormat, code: codeLocked,
			meaning: "the identity file is none",
			hint:    "give the file that `pgtrove init` or `pgtrove key add` made, unchanged, or what was typed from its paper copy"},
		{name: "`keys.ErrVersion`", is: keys.ErrVersion, code: codeRefused,
			meaning: "a key was written by a newer program",
			hint:    "update pgtrove on this machine"},
	}
}

func repositoryRules() []exitRule {
	return []exitRule{
		{name: "`repo.ErrNoRepository`", is: repo.ErrNoRepository, code: codeAbsent,
			meaning:  "no repository at this place",
			hint:     "check --repo (or PGTROVE_REPO) and that its file system is mounted; `pgtrove init` makes a new repository",
			ofBucket: "check the bucket and the prefix of --repo (or PGTROVE_REPO), and the endpoint; `pgtrove init` makes a new repository"},
		{name: "`repo.ErrExists`", is: repo.ErrExists, code: codeRefused,
			meaning:  "a repository is there already",
			hint:     "use it as it is, or make the new one in another directory",
			ofBucket: "use it as it is, or make the new one under another prefix of the bucket"},
		{name: "`repo.ErrNotEmpty`", is: repo.ErrNotEmpty, code: codeRefused,
			meaning:  "the place for a new repository holds other things",
			hint:     "give --repo an empty or a new directory",
			ofBucket: "give --repo another prefix of the bucket"},
		{name: "`repo.ErrVersion`", is: repo.ErrVersion, code: codeRefused,
			meaning: "the repository, or an object in it, was written by a newer program",
			hint:    "update pgtrove on this machine"},
		{name: "`repo.ErrConflict`", is: repo.ErrConflict, code: codeRefused,
			meaning: "the archive holds this WAL file with other content, which stays",
			hint:    "two servers may be archiving under one cluster name: give each its own --cluster"},
		{name: "`repo.ErrFenced`", is: repo.ErrFenced, code: codeOther,
			meaning: "prunes ended this backup again and again before it could commit",
			hint:    "run the backup again; what it uploaded is used again"},
		{name: "`repo.IndexError`", as: isA[*repo.IndexError], code: codeDamaged,
			meaning: "a part of the index is gone or damaged; prune changes nothing then, and what only that part knows of is not found",
			hint:    "`pgtrove rebuild-index` makes the index anew from the packs"},
		{name: "`repo.ErrNotIndexed`", is: repo.ErrNotIndexed, code: codeDamaged,
			meaning: "the index names no pack that holds something that a snapshot needs",
			hint:    "`pgtrove rebuild-index` finds it if a pack has it; `pgtrove verify` says which snapshots are concerned"},
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
		{name: "`restore.ErrUnreachable`", as: isA[*restore.UnreachableError], code: codeRefused,
			meaning: "no snapshot and WAL at hand lead to the target; nothing was written",
			hint:    "`pgtrove info` shows the windows that can be recovered", hintOf: nearestHint},
		{name: "`restore.ErrRefused`", is: restore.ErrRefused, code: codeRefused,
			meaning: "the place to restore to cannot be used; nothing was written", hintOf: refusedHint},
		{name: "`restore.ErrMismatch`", is: restore.ErrMismatch, code: codeDamaged,
			meaning: "the parts of a snapshot do not fit together"},
		{name: "no such object", is: errNoObject, code: codeAbsent,
			meaning: "inspect was given a name that no object has"},
		{name: "absent path", is: errNoWALFile, code: codeAbsent,
			meaning: "wal push was given a path at which there is nothing"},
		{name: "no data directory", is: errNoDataDirectory, code: codeUsage,
			meaning: "it cannot be found out which cluster a WAL file belongs to",
			hint:    "run it in the data directory, as PostgreSQL does, or give --pgdata"},
		{name: "`walarchive.ErrDamaged`", is: walarchive.ErrDamaged, code: codeDamaged,
			meaning: "a WAL file in the repository is not what was pushed"},
		{name: "`walarchive.ErrConflict`", is: walarchive.ErrConflict, code: codeRefused,
			meaning: "`wal receive` stored parts of one WAL segment that contradict each other",
			hint:    "two servers may write one timeline under one cluster name: find out which is the right one, and remove the other's parts"},
		{name: "`walarchive.ErrInvalid`", is: walarchive.ErrInvalid, code: codeRefused,
			meaning: "not a WAL file that PostgreSQL archives, or one that is cut short"},
		{name: "`walsource.ErrEmpty`", is: walsource.ErrEmpty, code: codeRefused,
			meaning: "a WAL file is empty or was never written"},
		{name: "`walsource.ErrTruncated`", is: walsource.ErrTruncated, code: codeRefused,
			meaning: "a WAL segment is shorter than it must be"},
		{name: "`walsource.ErrForeign`", is: walsource.ErrForeign, code: codeRefused,
			meaning: "a WAL segment belongs to another cluster",
			hint:    "each server archives its own WAL: is archive_command, or --pgdata, that of this cluster?"},
		{name: "`walsource.ErrMisnamed`", is: walsource.ErrMisnamed, code: codeRefused,
			meaning: "a WAL segment is not the one that its name says"},
		{name: "`walsource.ErrVersion`", is: walsource.ErrVersion, code: codeRefused,
			meaning: "WAL of a PostgreSQL that this program does not know",
			hint:    "update pgtrove on this machine"},
		{name: "`walsource.ErrNotWAL`", is: walsource.ErrNotWAL, code: codeRefused,
			meaning: "a file with the name of WAL holds something else"},
		{name: "`walsource.ErrUnfinished`", is: walsource.ErrUnfinished, code: codeRefused,
			meaning: "the server is still writing this WAL segment",
			hint:    "leave the pushing to archive_command"},
	}
}

// sourceRules are what can be wrong with a server and its data directory.
func sourceRules() []exitRule {
	return []exitRule{
		{name: "`pgsource.ErrSettings`", is: pgsource.ErrSettings, code: codeUsage,
			meaning: "the connection string or the libpq environment is wrong",
			hint:    "check --dsn, PGHOST, PGPORT, PGUSER and PGDATABASE"},
		{name: "`pgsource.ErrRejected`", is: pgsource.ErrRejected, code: codeLocked,
			meaning: "the server does not let the role in",
			hint:    "check PGUSER (or --dsn), the password in ~/.pgpass, and the server's pg_hba.conf"},
		{name: "`pgsource.ErrUnreachable`", is: pgsource.ErrUnreachable, code: codeUnreachable,
			meaning: "no server answers",
			hint:    "is the server running? --dsn, or PGHOST and PGPORT, say where; `psql` with the same settings should connect"},
		{name: "`pgsource.ErrPromoted`", is: pgsource.ErrPromoted, code: codeOther,
			meaning: "the standby was promoted during the backup, which voids it",
			hint:    "run the backup again; what it uploaded is used again"},
		{name: "`pgsource.ErrConnectionLost`", is: pgsource.ErrConnectionLost, code: codeUnreachable,
			meaning: "the connection to the server broke, which voids a backup",
			hint:    "run the backup again; what it uploaded is used again"},
		{name: "`pgsource.PrivilegeError`", as: isA[*pgsource.PrivilegeError], code: codeRefused,
			meaning: "the role lacks privileges", hintOf: grantHint},
		{name: "`pgsource.VersionError`", as: isA[*pgsource.VersionError], code: codeRefused,
			meaning: "the server's version is not supported"},
		{name: "`pgsource.ErrNotDataDir`", is: pgsource.ErrNotDataDir, code: codeRefused,
			meaning: "the directory is not a data directory",
			hint:    "give the server's data directory with --pgdata, or leave it to the server to say"},
		{name: "`pgsource.ErrForeign`", is: pgsource.ErrForeign, code: codeRefused,
			meaning: "the data directory is not that of the server connected to",
			hint:    "make --pgdata (PGDATA) and the connection (--dsn, PGHOST, PGPORT) name the same server; backup runs on the server's host"},
		{name: "data directory not found", as: isAbsentDataDir, code: codeRefused,
			meaning: "the data directory is not on this host",
			hint:    "backup runs on the server's host; where the directory is mounted elsewhere, say so with --pgdata"},
		{name: "data directory not readable", as: isClosedDataDir, code: codeLocked,
			meaning: "this account may not read the data directory",
			hint:    "run it as the server's account, usually postgres"},
		{name: "`pgsource.ErrWALLevel`", is: pgsource.ErrWALLevel, code: codeRefused,
			meaning: "wal_level is minimal",
			hint:    "set wal_level = replica in postgresql.conf and restart the server"},
		{name: "`pgsource.ErrFullPageWrites`", is: pgsource.ErrFullPageWrites, code: codeRefused,
			meaning: "the standby has replayed WAL written with full_page_writes off",
			hint:    "set full_page_writes = on at the primary, run CHECKPOINT there, and try again; or back up the primary"},
	}
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func isAbsentDataDir(err error) bool {
	return isA[*pgsource.DataDirError](err) && errors.Is(err, fs.ErrNotExist)
}

func isClosedDataDir(err error) bool {
	return isA[*pgsource.DataDirError](err) && errors.Is(err, fs.ErrPermission)
}

func nearestHint(err error) string {
	var u *restore.UnreachableError
	if !errors.As(err, &u) || u.Nearest() == "" {
		return ""
	}
	return u.Nearest() + "; `pgtrove info` shows all windows"
}

func refusedHint(err error) string {
	var r *restore.RefusedError
	if !errors.As(err, &r) {
		return ""
	}
	return r.Hint
}

// grantHint gives the statements as a command.
func grantHint(err error) string {
	var p *pgsource.PrivilegeError
	if !errors.As(err, &p) {
		return "a superuser grants them with the statements that the message lists"
	}
	return "as a superuser: " + commandLine("psql", "-d", p.Database, "-c", strings.Join(p.Missing, " "))
}

// storageRules come last: they are the causes below everything else.
func storageRules() []exitRule {
	return []exitRule{
		{name: "`s3.ErrOptions`", is: s3.ErrOptions, code: codeUsage,
			meaning: "the settings of the object storage are wrong or not complete",
			hint:    "check --repo, the --s3-… settings, and what AWS's own programs read: AWS_* in the environment, ~/.aws/config, ~/.aws/credentials",
			hintOf:  optionsHint},
		{name: "another region", as: s3.IsRegion, code: codeUsage,
			meaning: "the bucket is in another region than the one that requests are made for",
			hint:    "give the bucket's region with --s3-region (AWS_REGION), and the endpoint that belongs to it"},
		{name: "http for https", as: s3.IsTLS, code: codeUsage,
			meaning: "the endpoint is one of http, and what answers there expects https",
			hint:    "is it https://? Write the endpoint (--s3-endpoint, AWS_ENDPOINT_URL) so"},
		{name: "https for http", as: s3.IsNotTLS, code: codeUsage,
			meaning: "the endpoint is one of https, and what answers there speaks http",
			hint:    "without TLS the endpoint (--s3-endpoint, AWS_ENDPOINT_URL) begins with http://; or it has another port for https"},
		{name: "no object lock", as: s3.IsNoLock, code: codeRefused,
			meaning: "objects are to be locked, and the bucket was made without object lock",
			hint:    "--object-lock needs a bucket that was made with object lock (docs/object-storage.md); a repository keeps what its init was told"},
		{name: "no such bucket", as: s3.IsNoBucket, code: codeAbsent,
			meaning: "the object storage has no bucket of this name",
			hint:    "check --repo, the endpoint and the region; pgtrove makes no buckets"},
		{name: "`storage.ErrUnreachable`", is: storage.ErrUnreachable, code: codeUnreachable,
			meaning: "the storage is gone or does not answer",
			hint:    "is the repository's file system mounted?", hintOf: unreachableHint},
		{name: "`storage.ErrFull`", is: storage.ErrFull, code: codeUnreachable,
			meaning: "no room in the storage; nothing half-written is visible",
			hint:    "make room where the repository is, then run the command again: what it stored before is used again"},
		{name: "`storage.ErrReadOnly`", is: storage.ErrReadOnly, code: codeUnreachable,
			meaning: "the storage takes no writes",
			hint:    "mount the repository's file system for writing", hintOf: readOnlyHint},
		{name: "`storage.ErrDenied`", is: storage.ErrDenied, code: codeLocked,
			meaning: "the storage refuses this account",
			hint:    "run as the account that owns the repository, or give this one access to it",
			hintOf:  deniedHint},
		{name: "`ENOSPC`, `EDQUOT`", as: isFull, code: codeUnreachable,
			meaning: "no room on a file system, such as the one that is restored to",
			hint:    "make room there, remove what the command left, and run it again"},
		{name: "`fs.ErrPermission`", is: fs.ErrPermission, code: codeLocked,
			meaning: "this account may not read or write a file",
			hint:    "run as the account that owns the file, usually postgres, or give this one access"},
	}
}
