package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
)

func newInitCommand(a *app) *cobra.Command {
	var o initOptions
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a repository",
		Long: `Make a repository, and an identity file that opens it: at --key-file, else in the user's configuration
directory, never over an existing file. With a passphrase (--password-file, PGTROVE_PASSWORD_FILE,
PGTROVE_PASSWORD or --passphrase) there is no identity file.

Without the identity file or the passphrase nobody can read the backups. Keep a copy elsewhere.

With --owner-recipient the host that makes the repository never holds what opens it: the owner's identity stays where it is, and only
its public half is given here (age-keygen -pq makes one; pgtrove can open with it). Give several, for several owners. The host gets an identity of
its own at --key-file, of a writer, or with --role standby one that also opens WAL, and writes for the cluster of --cluster. More keys are made
later by an owner, with ` + "`pgtrove key add`" + `.

In a directory nothing keeps a host that backs up from deleting or changing what is there. In a bucket the storage does, if
each host has an account of its own: docs/object-storage.md has a policy for each kind, and what else the bucket needs.

Object storage is tested first, with some sixty small requests: whether it creates an object only once, whoever else tries
at the same time. Hosts that back up at once, and a prune beside them, are safe by that; storage that cannot do it is refused.
The bucket must be there. The account that makes the repository needs s3:ListBucket on it, s3:GetObject and s3:PutObject on
config, keys/ and selftest/ in it, and may have s3:DeleteObject on selftest/, to leave nothing behind.

With --object-lock, every command that writes asks the storage to let nobody delete the object for so long (governance
mode). The bucket must have been made with object lock, which also turns its versioning on, and every account that writes
needs s3:PutObjectRetention where it writes.`,
		Args: exactly(),
	}
	c.Flags().BoolVar(&o.passphrase, "passphrase", false, "ask for a passphrase on the terminal")
	c.Flags().BoolVar(&o.unsafe, "allow-unsafe-storage", false, "make it in storage that failed the test, and never let two commands write at once")
	c.Flags().StringArrayVar(&o.owners, "owner-recipient", nil, "wrap the owner's key for this `recipient` of age: age1..., age1pq1..., ssh-ed25519 ... or a plugin's; may be given several times")
	c.Flags().StringVar(&o.role, "role", "", "with --owner-recipient, the `role` of this host's own key: writer (default) or standby")
	c.Flags().StringVar(&o.name, "name", "", "`name` of the key: this host's with --owner-recipient (default: the host's name), else the owner's (default \"owner\")")
	lock := c.Flags().String("object-lock", "", "let nobody delete what is written for so many `days`, such as 14d; in object storage only")
	c.RunE = a.run(func(ctx context.Context, _ []string) (err error) {
		if o.lockDays, err = parseDays(*lock); err != nil {
			return usageError{err: fmt.Errorf("--object-lock %w", err), command: "pgtrove init"}
		}
		if err := o.validate(); err != nil {
			return err
		}
		return a.init(ctx, o)
	})
	return c
}

// initOptions are the flags of init.
type initOptions struct {
	passphrase, unsafe bool
	lockDays           int // 0: no object lock
	owners             []string
	role, name         string
	recipients         []repo.Recipient // of owners
}

func (o *initOptions) validate() error {
	wrong := func(format string, args ...any) error {
		return usageError{err: fmt.Errorf(format, args...), command: "pgtrove init"}
	}
	switch {
	case o.role != "" && len(o.owners) == 0:
		return wrong("--role is for the host's own key beside --owner-recipient; without that, the key made here is the owner's")
	case o.role != "" && o.role != string(keys.Writer) && o.role != string(keys.Standby):
		return wrong("--role %q: give writer or standby", o.role)
	case o.name != "" && checkClusterName(o.name) != nil:
		return wrong("--name %q: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit", o.name)
	}
	for _, text := range o.owners {
		r, err := parseRecipient(text)
		if err != nil {
			return err
		}
		o.recipients = append(o.recipients, r)
	}
	return nil
}

// hostKey is the key of the host that makes a repository whose owner is elsewhere.
func (a *app) hostKey(o initOptions, opener repo.Recipient) *repo.NewKey {
	k := &repo.NewKey{Name: o.name, Role: keys.Writer, Clusters: []string{a.settings.clusterName()}, Recipients: []repo.Recipient{opener}}
	if o.role != "" {
		k.Role = keys.Role(o.role)
	}
	if host, err := os.Hostname(); k.Name == "" && err == nil && checkClusterName(host) == nil {
		k.Name = host
	}
	if k.Name == "" {
		k.Name = string(k.Role)
	}
	return k
}

func (a *app) init(ctx context.Context, o initOptions) error {
	name, err := a.repositoryName()
	if err != nil {
		return err
	}
	if o.lockDays > 0 && !isRemote(name) {
		return usageError{err: errors.New("--object-lock: a directory cannot do that"),
			hint: "whoever may write into a directory may delete and change what is there; a bucket that was made with object lock keeps it"}
	}
	pass, err := a.newPassphrase(ctx, o.passphrase)
	if err != nil {
		return err
	}
	keyFile := ""
	if pass == "" {
		if keyFile, err = a.newIdentityPath(); err != nil {
			return err
		}
	}
	store, tested, err := a.createStorage(ctx, name, keyFile, o.unsafe)
	if err != nil {
		return fmt.Errorf("make repository %s: %w", name, refusal(err))
	}
	opener := repo.Recipient{}
	if keyFile == "" {
		opener, err = passphraseRecipient(pass)
	} else {
		opener, err = makeIdentity(keyFile, nil, "--key-file") // durable before anything depends on it
	}
	if err != nil {
		return err
	}
	a.obey(repo.Config{Params: repo.Params{ObjectLockDays: o.lockDays}})
	options := repo.InitOptions{Storage: tested, ObjectLockDays: o.lockDays, Name: o.name, Owners: []repo.Recipient{opener}}
	if len(o.recipients) > 0 {
		options.Name, options.Owners, options.Host = "", o.recipients, a.hostKey(o, opener)
	}
	r, err := repo.InitWith(ctx, store, nil, time.Now(), options)
	if err != nil {
		undoInit(err, name, keyFile)
		return fmt.Errorf("make repository %s: %w", name, a.adviseInit(err, tested != nil, o.lockDays > 0, keyFile))
	}
	if keyFile != "" {
		a.pinIdentity(keyFile, r.Root())
	}
	if err := a.showInit(r, name, keyFile, o); err != nil {
		return a.untold(err, keyFile)
	}
	return nil
}

// pinIdentity notes in a new identity file which repository it is for, so that it opens no other that somebody puts in its place. Without the note it
// opens the repository as well.
func (a *app) pinIdentity(path string, root ed25519.PublicKey) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = durable.Replace(path, 0o600, keys.PinRoot(text, root))
	}
	if err != nil {
		a.out.warn("the identity file %s does not say which repository it is for, so that it would also open another that was put in its place: %v", path, err)
	}
}

// undoInit takes away what a repository that failed with err leaves, unless it may be there all the same: then the identity is all that opens it. Of
// a directory only what is empty goes, and not the directory itself: another init may be at work in it, and the bundle and the config there may be its.
func undoInit(err error, name, keyFile string) {
	var failed *repo.InitError
	if errors.As(err, &failed) && failed.MayExist {
		return
	}
	if !isRemote(name) {
		_ = os.Remove(filepath.Join(name, "keys")) // who puts something there makes it again
	}
	if keyFile != "" {
		_ = os.Remove(keyFile)
	}
}

// untold is the error of an init that made the repository, and could not say so. Nothing is undone.
func (a *app) untold(err error, keyFile string) error {
	opens := "the passphrase opens it"
	if keyFile != "" {
		opens = "the identity file " + keyFile + " opens it: make a copy of that elsewhere"
	}
	return withHint(fmt.Errorf("the repository was made, but its description could not be written: %w", err), "`pgtrove info` shows it; %s", opens)
}

// createStorage gives the storage for a new repository, and what its test found (nil for a directory).
func (a *app) createStorage(ctx context.Context, name, keyFile string, unsafe bool) (storage.Store, *repo.StorageTest, error) {
	if isRemote(name) {
		return a.createRemote(ctx, name, unsafe)
	}
	// Where there is no directory there is no repository either, which would be the first thing to say.
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) && keyFile != "" {
		if _, err := os.Lstat(keyFile); err == nil {
			return nil, nil, identityExists(keyFile, "--key-file")
		}
	}
	driver, err := storagefs.Create(name)
	if err != nil {
		return nil, nil, err
	}
	return a.decorate(driver), nil, nil
}

// createRemote gives the storage for a new repository in object storage, and what its test found.
func (a *app) createRemote(ctx context.Context, name string, unsafe bool) (storage.Store, *repo.StorageTest, error) {
	driver, err := a.openS3(name)
	if err != nil {
		return nil, nil, err
	}
	store := a.decorateRemote(driver)
	if err := repo.Check(ctx, store); err != nil {
		return nil, nil, hintRights(err, false)
	}
	verdict, err := storage.SelfTest(ctx, store)
	if err != nil {
		if n := len(verdict.Left); n > 0 {
			a.out.info("the test may have left %s under %s; they do no harm, and another init does not mind them", showCount(int64(n), "small object", "small objects"),
				storage.SelfTestPrefix)
		}
		return nil, nil, hintRights(err, false)
	}
	tested, err := a.judgeStorage(verdict, unsafe)
	return store, tested, err
}

// adviseInit says what to do where the storage did not take the new repository. remote: it is object storage.
func (a *app) adviseInit(err error, remote, lock bool, keyFile string) error {
	var failed *repo.InitError
	if remote && errors.As(err, &failed) && failed.Left != "" {
		a.out.info("%s may be left in the bucket; it does no harm, and another init does not mind it", failed.Left)
	}
	switch {
	case failed != nil && failed.MayExist:
		then := "if there is no repository, run init again"
		if keyFile != "" {
			then = fmt.Sprintf("if there is no repository, remove the identity file %s, which was kept, and run init again", keyFile)
		}
		return withHint(err, "it may have been made all the same: `pgtrove info` tells; %s", then)
	case errors.Is(err, repo.ErrExists): // another init was faster
	case remote && errors.Is(err, storage.ErrDenied):
		return hintRights(err, lock)
	case lock && failed != nil:
		return withHint(err, "--object-lock needs a bucket that was made with object lock")
	}
	return err
}

// hintRights says what init must be allowed to do in object storage, where it was not.
func hintRights(err error, lock bool) error {
	if !errors.Is(err, storage.ErrDenied) || notOfRights(err) != "" {
		return err
	}
	also := ""
	if lock {
		also = ", with --object-lock also s3:PutObjectRetention on them"
	}
	return withHint(err, "check the keys. To init, an account needs s3:ListBucket on the bucket, and s3:GetObject and s3:PutObject on config, keys/ and "+
		"selftest/ in it%s; those that back up or prune do not. docs/object-storage.md has the policies", also)
}

// judgeStorage tells what the test of a storage found, and refuses a storage that fails it unless that is allowed.
func (a *app) judgeStorage(v storage.Verdict, unsafe bool) (*repo.StorageTest, error) {
	tested := &repo.StorageTest{CreateOnly: v.CreateOnly()}
	for _, p := range v.Problems {
		tested.Problems = append(tested.Problems, string(p))
	}
	if len(v.Left) > 0 {
		a.out.info("the storage lets this account delete nothing, which is good for a database host; the test left %s under %s",
			showCount(int64(len(v.Left)), "small object", "small objects"), storage.SelfTestPrefix)
	}
	found := strings.Join(tested.Problems, "; ")
	switch {
	case found == "":
		a.out.info("storage tested: it creates an object only once")
	case !unsafe:
		return nil, withHint(refused("the storage is not safe for a repository: %s", found),
			"use storage that honours If-None-Match: * (AWS, MinIO, versitygw and others do). With --allow-unsafe-storage it is for you to make sure that never two commands write at once")
	default:
		a.out.warn("the storage is not safe for a repository: %s. Never let two commands write at once, prune included", found)
	}
	return tested, nil
}

// newPassphrase returns the passphrase for a new repository, "" where there is to be an identity file.
func (a *app) newPassphrase(ctx context.Context, ask bool) (secret, error) {
	s := &a.settings
	if !ask {
		return a.givenPassphrase()
	}
	if s.KeyFile != "" || s.PasswordFile != "" || s.Password != "" {
		return "", usageError{err: errors.New("--passphrase, and an identity file or passphrase is given as well: give one")}
	}
	return a.askNew(ctx)
}

func (a *app) newIdentityPath() (string, error) {
	if a.settings.KeyFile != "" {
		return absolute(a.settings.KeyFile)
	}
	p, err := a.env.identityFile()
	if err != nil {
		return "", withHint(fmt.Errorf("find a place for the identity file: %w", err), "say where it shall be with --key-file FILE")
	}
	return p, nil
}

// makeIdentity makes an identity and writes it to path. root is that of the repository it will be for; nil: not known yet. flag chooses another place.
func makeIdentity(path string, root ed25519.PublicKey, flag string) (repo.Recipient, error) {
	text, recipient, err := keys.GenerateIdentity()
	if err != nil {
		return repo.Recipient{}, fmt.Errorf("make identity: %w", err)
	}
	public, ok := recipient.(fmt.Stringer)
	if !ok {
		return repo.Recipient{}, fmt.Errorf("make identity: its public half, a %T, has no text", recipient)
	}
	if root != nil {
		text = keys.PinRoot(text, root)
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return repo.Recipient{}, fmt.Errorf("make directory for the identity file: %w", err)
	}
	err = durable.Create(path, 0o600, text)
	if errors.Is(err, fs.ErrExist) {
		return repo.Recipient{}, identityExists(path, flag)
	}
	if err != nil {
		return repo.Recipient{}, fmt.Errorf("write identity file: %w", err)
	}
	return repo.Recipient{Recipient: recipient, Text: public.String(), Kind: keys.KindIdentity}, nil
}

func identityExists(path, flag string) error {
	return withHint(refused("write identity file: %s exists, and an identity is never overwritten: it may be all that opens another repository", path),
		"choose another place with %s FILE", flag)
}

// refusal gives what the storage says of a place that is taken the repository's name for it.
func refusal(err error) error {
	switch {
	case errors.Is(err, storage.ErrExist):
		return repo.ErrExists
	case errors.Is(err, storage.ErrNotEmpty):
		return repo.ErrNotEmpty
	}
	return err
}

// pruneOften says how often to prune where objects are locked for so many days: each quarter of the time at least. A prune extends what has two thirds of it
// left or less, so at the latest with five twelfths of it left, and if that run fails the next one comes in time.
func pruneOften(days int) string {
	switch {
	case days >= 4:
		return "every night"
	case days >= 2:
		return "every 12 hours"
	}
	return "every 6 hours"
}

type initJSON struct {
	Type    string    `json:"type"` // "repository"
	ID      string    `json:"id"`
	Repo    string    `json:"repo"`
	KeyFile string    `json:"key_file,omitempty"`
	Created jsonTime  `json:"created"`
	Role    keys.Role `json:"role"` // of the key that was made here
	Name    string    `json:"name"`
	Root    string    `json:"root"` // public key, in base64, as an identity file names it
}

func (a *app) showInit(r *repo.Repo, name, keyFile string, o initOptions) error {
	c := r.Config()
	root := base64.StdEncoding.EncodeToString(r.Root())
	if a.settings.JSON {
		return a.out.object(initJSON{"repository", c.ID, name, keyFile, jsonTime(c.Created), r.Role(), r.Certificate().Name, root})
	}
	text := fmt.Sprintf("repository %s made in %s\n", c.ID[:16], name)
	switch {
	case len(o.recipients) > 0:
		text += ownedElsewhere(r, keyFile, root, o)
	case keyFile != "":
		text += fmt.Sprintf(`identity file: %s
Whoever has this file can read the backups. If it is lost, they are lost: nobody can open them without it.
Make a copy now, on another machine or on paper (`+"`pgtrove key export --paper`"+`), for example
  scp %s safehost:pgtrove-identity.txt
On a database host it is best replaced by a key that cannot read backups: `+"`pgtrove key add --role writer`"+`, and then take this one away.
`, keyFile, shellQuote(keyFile))
	default:
		text += "The passphrase is all that opens it. If it is forgotten, the backups are lost.\n"
	}
	if days := c.Params.ObjectLockDays; days > 0 {
		text += fmt.Sprintf(`What is written is locked for %s. Prune %s, or more often: it extends the locks of what is needed.
What it deletes the bucket keeps as old versions: give the bucket a rule that removes these (docs/object-storage.md).
`, showCount(int64(days), "day", "days"), pruneOften(days))
	}
	if !isRemote(name) {
		text += `An account that may back up into a directory may also delete and change what is there: nothing keeps a stolen host from destroying
its backups. A bucket can (docs/object-storage.md); or copy the directory to where that host cannot reach it.
`
	}
	if os.Getuid() == 0 {
		text += "Made by root: archive_command runs as PostgreSQL's account and needs all of this too. Simplest is to make it as that account.\n"
	}
	return a.out.print("%s", text)
}

// ownedElsewhere says who can do what with a repository whose owner is not here.
func ownedElsewhere(r *repo.Repo, keyFile, root string, o initOptions) string {
	who := "The owner, whose identity is elsewhere, can read the backups and make more keys. If that is lost, they are lost.\n"
	if n := len(o.recipients); n > 1 {
		who = fmt.Sprintf("%d owners, whose identities are elsewhere, can read the backups and make more keys. If all of these are lost, so are they.\n", n)
	}
	text := fmt.Sprintf("%sAdd this line to the identity file of each owner, so that it opens no other repository that is put in the place of this one:\n  # repository root: %s\n", who, root)
	opens := "no backup and no WAL"
	if r.Role() == keys.Standby {
		opens = "WAL, but no backup"
	}
	text += fmt.Sprintf("this host's key: %s %s, of cluster %s; it opens %s\n", r.Role(), r.Certificate().Name, strings.Join(r.Certificate().Clusters, ", "), opens)
	if keyFile != "" {
		text += fmt.Sprintf("identity file: %s\nIf it is lost, nothing is: an owner makes another with `pgtrove key rotate %s`.\n", keyFile, r.Certificate().Name)
	}
	for _, owner := range o.recipients {
		if note := quantumNote(owner.Kind, owner.Text); note != "" {
			return text + note
		}
	}
	return text
}
