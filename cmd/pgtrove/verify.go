package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
)

// verifyOptions are the flags of verify.
type verifyOptions struct {
	share  readShare
	repair bool
}

func newVerifyCommand(a *app) *cobra.Command {
	o := verifyOptions{}
	readData := ""
	c := &cobra.Command{
		Use:   "verify [SNAPSHOT...]",
		Short: "Check that snapshots can be restored",
		Long: `Check the snapshots, all of them unless some are named: everything that they refer to is there, in packs of the right
size, and so is the WAL without which they cannot be recovered. With --read-data every byte of their packs and of the
archived WAL is read, opened and compared with its name, once however many snapshots share it. With --read-data=5% it is
one of twenty slices, in each run the one that was read longest ago, so that twenty runs read everything, and besides what
a former run found damaged; what was read when is remembered in the cache.

Damage is reported with the snapshots and files that it concerns, and the exit code is 9; that a snapshot had all its WAL
and lacks some now is damage too. Where WAL that a snapshot needs never came, it is 3. Of gaps behind the snapshots it
warns. With --repair what is sound in damaged packs is copied out of them, and they are given up: the next backup stores
again what they held, if the cluster still has it. What is lost is listed, and nothing is deleted: prune removes a damaged
pack once nothing in it is needed any more.

A snapshot that is not what it claims to be is told, and the exit code is 5 if nothing is damaged. --read-data and --repair take an owner's
key: those of writers and standbys open no data. Without them every key will do.`,
		Args: func(*cobra.Command, []string) error { return nil },
	}
	c.Flags().StringVar(&readData, "read-data", "", "read every byte, or only a `share` of all, which is another one in each run")
	c.Flags().Lookup("read-data").NoOptDefVal = wholeShare
	c.Flags().BoolVar(&o.repair, "repair", false, "keep what is sound of damaged packs, and let the next backup heal the rest; reads every byte unless --read-data gives a share")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if o.repair && !c.Flags().Changed("read-data") {
			readData = wholeShare
		}
		if readData != "" || c.Flags().Changed("read-data") {
			var err error
			if o.share, err = parseReadShare(readData); err != nil {
				return usageError{err: fmt.Errorf("--read-data %w", err), command: "pgtrove verify"}
			}
		}
		return a.verify(ctx, args, o)
	})
	return c
}

func (a *app) verify(ctx context.Context, names []string, o verifyOptions) error {
	name, err := a.repositoryName()
	if err != nil {
		return err
	}
	store, place, err := a.openStorage(ctx, name)
	if err != nil {
		return fmt.Errorf("open repository %s: %w", name, err)
	}
	r, err := a.openIn(ctx, name, store)
	if err != nil {
		return err
	}
	return a.verifyIn(ctx, r, cmp.Or(place, name), names, o)
}

// verifyIn verifies an open repository; place tells it from its copies.
func (a *app) verifyIn(ctx context.Context, r *repo.Repo, place string, names []string, o verifyOptions) error {
	if r.Role() != keys.Owner && (o.repair || o.share.slices > 0) {
		what := "verify --read-data"
		if o.repair {
			what = "verify --repair"
		}
		return a.lacksRole(r, what, "only an owner's opens what is stored, to see whether it is sound",
			"without --read-data `pgtrove verify` works with this key, and makes sure that all is there. Read it where an owner's identity is (--key-file FILE), which need not be this host")
	}
	catalog, err := loadCatalog(ctx, r, a.settings.Cluster)
	if err != nil {
		return err
	}
	v := &verifyRun{app: a, repo: r, place: place, o: o, begun: time.Now()}
	v.snapshots, err = pick(catalog, names)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		for _, err := range catalog.damaged {
			v.damage = append(v.damage, damageJSON{Type: "damage", Object: "snapshot", Error: err.Error()})
		}
		v.refused = catalog
	}
	v.chooseSlice(names)
	if v.view, err = r.OpenView(ctx, a.cacheDir(), a.settings.Cluster); err != nil {
		return err
	}
	defer func() { _ = v.view.Close() }() // only read
	for _, step := range []func(context.Context) error{
		v.index, v.chunks, func(ctx context.Context) error { return v.wal(ctx, len(names) > 0) }, v.mend,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return v.show()
}

// pick returns the snapshots that names stand for; all without names.
func pick(c *catalog, names []string) ([]*snapshot.Manifest, error) {
	if len(names) == 0 {
		return c.snapshots, nil
	}
	var picked []*snapshot.Manifest
	for _, name := range names {
		m, err := c.findShown(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(picked, m) {
			picked = append(picked, m)
		}
	}
	return picked, nil
}

// verifyRun is one verification.
type verifyRun struct {
	*app
	repo      *repo.Repo
	place     string
	o         verifyOptions
	snapshots []*snapshot.Manifest
	begun     time.Time
	view      *repo.View

	log   readLog
	seen  remembered      // by former runs
	again map[string]bool // what was damaged when it was read last, by key
	k     uint64          // the slice that this run reads
	slice stretch

	report   *restore.VerifyReport
	walFiles int64
	walBytes int64
	walLost  []string           // IDs of snapshots that had all WAL that they need, and lack some now
	walNever []string           // of those that never had it
	gaps     []gapJSON          // between what the snapshots need otherwise
	repaired *repo.RepairReport // nil: nothing was repaired
	lost     []damageJSON       // what is damaged after that
	hidden   bool               // not all of it is known, since listings are damaged

	looked     bool     // lookAtUnnamed was there
	unreadable []string // packs that the index does not name, and that do not say what they hold
	rebuilds   bool     // a new index would have what this one lacks

	refused *catalog // whose refused snapshots are told; nil: snapshots were named

	mu     sync.Mutex
	damage []damageJSON
}

// chooseSlice finds out what this run reads.
func (v *verifyRun) chooseSlice(names []string) {
	if !v.reads() {
		return
	}
	var named []*snapshot.Manifest
	if len(names) > 0 {
		named = v.snapshots
	}
	v.log = newReadLog(v.cacheDir(), v.repo.Config().ID, v.place, v.settings.Cluster, named)
	v.seen = v.log.load(time.Now())
	v.again = map[string]bool{}
	for _, key := range v.seen.Damaged {
		v.again[key] = true
	}
	v.k = v.seen.Read.next(v.o.share.slices)
	v.slice = slice(v.k, v.o.share.slices)
	v.slice.Read = v.begun.UTC()
}

func (v *verifyRun) reads() bool { return v.o.share.slices > 0 }

// chosen says whether this run reads an object: it is in the slice, or was damaged when it was read last.
func (v *verifyRun) chosen(key string) bool {
	return v.slice.has(position(key)) || v.again[key]
}

// index makes sure that the index can be read: what the view needed of it and, where data is read, what stands in the storage.
func (v *verifyRun) index(ctx context.Context) error {
	found := []error{v.view.IndexDamage()}
	if v.reads() {
		v.out.detail("reading the index")
		found = append(found, v.repo.CheckIndex(ctx, v.chosen))
	}
	told := map[string]bool{}
	for _, err := range found {
		var broken *repo.IndexError
		if err != nil && !errors.As(err, &broken) {
			return err
		}
		if err == nil {
			continue
		}
		for _, b := range broken.Objects {
			if !told[b.Key] {
				told[b.Key] = true
				v.damage = append(v.damage, damageJSON{Type: "damage", Object: b.Key, Error: b.Err.Error(), index: true})
			}
		}
	}
	return nil
}

// chunks verifies the snapshots' files.
func (v *verifyRun) chunks(ctx context.Context) (err error) {
	p := v.out.startProgress("verify", 0, nil)
	defer p.close()
	o := v.options()
	o.ReadData, o.Chosen = v.reads(), v.chosen
	o.Events = restore.VerifyEvents{
		Snapshot: func(id string) { v.out.detail("reading what snapshot %s consists of", id) },
		Packs:    func(_ int, bytes int64) { p.total.Store(bytes) },
		Read:     p.add,
	}
	if v.report, err = restore.Verify(ctx, v.view, v.repo, o); err != nil {
		return err
	}
	for _, id := range v.report.Removed {
		v.out.info("not verified: snapshot %s was forgotten, and a prune has removed it meanwhile", id)
		v.snapshots = slices.DeleteFunc(v.snapshots, func(m *snapshot.Manifest) bool { return m.ID == id })
	}
	for i := range v.report.Damage {
		v.damage = append(v.damage, damageOf("damage", &v.report.Damage[i]))
	}
	if slices.ContainsFunc(v.damage, func(d damageJSON) bool { return d.unnamed }) {
		return v.lookAtUnnamed(ctx)
	}
	return nil
}

func (v *verifyRun) options() restore.VerifyOptions {
	return restore.VerifyOptions{
		Snapshots: v.snapshots, Jobs: v.jobs(allJobs()), IsDamage: isDamage,
		Counts: func(ctx context.Context, id string) (bool, error) { return stillCounts(ctx, v.repo, id) },
	}
}

// isDamage tells errors that say something of what is stored from those, such as an outage, that do not.
func isDamage(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrUnreachable) {
		return false
	}
	return classify(err).code == codeDamaged || errors.Is(err, repo.ErrDamaged) || errors.Is(err, storage.ErrNotExist)
}
