package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newVerifyCommand(a *app) *cobra.Command {
	readData := false
	c := &cobra.Command{
		Use:   "verify [SNAPSHOT...]",
		Short: "Check that snapshots can be restored",
		Long: `Check the snapshots, all of them unless some are named: everything that they refer to is there, in packs of the right
size. With --read-data every byte of their packs and of the archived WAL is read, opened and compared with its name.

Damage is reported with the snapshots and files that it concerns, and the exit code is 9.`,
		Args: func(*cobra.Command, []string) error { return nil },
	}
	c.Flags().BoolVar(&readData, "read-data", false, "read every byte")
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.verify(ctx, args, readData) })
	return c
}

func (a *app) verify(ctx context.Context, names []string, readData bool) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	catalog, err := loadCatalog(ctx, r, a.settings.Cluster)
	if err != nil {
		return err
	}
	v := &verifyRun{app: a, repo: r, readData: readData, begun: time.Now()}
	v.snapshots, err = pick(catalog, names)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		for _, err := range catalog.damaged {
			v.damage = append(v.damage, damageJSON{Type: "damage", Object: "snapshot", Error: err.Error()})
		}
	}
	if err := v.chunks(ctx); err != nil {
		return err
	}
	if err := v.wal(ctx, len(names) > 0); err != nil {
		return err
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
	snapshots []*snapshot.Manifest
	readData  bool
	begun     time.Time

	report   *restore.VerifyReport
	walFiles int64
	walBytes int64

	mu     sync.Mutex
	damage []damageJSON
}

type damageJSON struct {
	Type      string   `json:"type"`
	Object    string   `json:"object"`
	Error     string   `json:"error"`
	Snapshots []string `json:"snapshots"`
	Files     []string `json:"files"`
	MoreFiles int64    `json:"more_files,omitempty"`
}

// chunks verifies the snapshots' files.
func (v *verifyRun) chunks(ctx context.Context) error {
	view, err := v.repo.OpenView(ctx, v.cacheDir(), v.settings.Cluster)
	if err != nil {
		return err
	}
	defer func() { _ = view.Close() }() // only read
	p := v.out.startProgress("verify", 0, nil)
	defer p.close()
	v.report, err = restore.Verify(ctx, view, v.repo, restore.VerifyOptions{
		Snapshots: v.snapshots, ReadData: v.readData, Jobs: v.jobs(allJobs()), IsDamage: isDamage,
		Counts: func(ctx context.Context, id string) (bool, error) { return stillCounts(ctx, v.repo, id) },
		Events: restore.VerifyEvents{
			Snapshot: func(id string) { v.out.detail("reading what snapshot %s consists of", id) },
			Packs:    func(_ int, bytes int64) { p.total.Store(bytes) },
			Read:     p.add,
		},
	})
	if err != nil {
		return err
	}
	for _, id := range v.report.Removed {
		v.out.info("not verified: snapshot %s was forgotten, and a prune has removed it meanwhile", id)
		v.snapshots = slices.DeleteFunc(v.snapshots, func(m *snapshot.Manifest) bool { return m.ID == id })
	}
	for i := range v.report.Damage {
		d := &v.report.Damage[i]
		v.damage = append(v.damage, damageJSON{"damage", d.Object, d.Err.Error(), d.Snapshots, d.Files, d.MoreFiles})
	}
	return nil
}

// isDamage tells errors that say something of what is stored from those, such as an outage, that do not.
func isDamage(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrUnreachable) {
		return false
	}
	return classify(err).code == codeDamaged || errors.Is(err, storage.ErrNotExist)
}

// wal verifies the archive: which WAL the snapshots lack, and with readData every byte. Where snapshots were named it is
// their WAL only.
func (v *verifyRun) wal(ctx context.Context, named bool) error {
	archives, err := findArchives(ctx, v.repo, v.settings.Cluster, v.snapshots)
	if err != nil {
		if isDamage(err) {
			v.damage = append(v.damage, damageJSON{Type: "damage", Object: "wal", Error: err.Error()})
			return nil
		}
		return err
	}
	for _, c := range archives {
		for _, m := range ofArchive(v.snapshots, archiveKey{c.Cluster, c.System}) {
			if state := walState(m, c); state != snapshot.WALComplete {
				v.out.warn("snapshot %s cannot be recovered from this repository alone: its WAL is %s", m.ID, state)
			}
		}
	}
	if !v.readData {
		return nil
	}
	p := v.out.startProgress("verify WAL", 0, nil)
	defer p.close()
	for _, c := range archives {
		p.total.Add(c.Bytes)
	}
	for _, c := range archives {
		if named {
			err = v.walOfSnapshots(ctx, c)
		} else {
			err = v.walOfArchive(ctx, c, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifyRun) walOfArchive(ctx context.Context, c *walarchive.Coverage, p *progress) error {
	v.walFiles += int64(c.Files)
	v.walBytes += c.Bytes
	// A segment takes its plain size several times over in memory: large ones are read one at a time.
	jobs := v.jobs(allJobs())
	if c.SegmentSize > 64<<20 {
		jobs = 1
	}
	return archiveKey{c.Cluster, c.System}.in(v.repo).Verify(ctx, walarchive.Check{
		Jobs: jobs, Progress: p.add,
		Damaged: func(key string, err error) { v.damagedWAL(c, key, err) },
	})
}

// walOfSnapshots reads the segments that the named snapshots need to become consistent.
func (v *verifyRun) walOfSnapshots(ctx context.Context, c *walarchive.Coverage) error {
	archive := archiveKey{c.Cluster, c.System}.in(v.repo)
	for _, m := range ofArchive(v.snapshots, archiveKey{c.Cluster, c.System}) {
		for _, s := range c.PathTo(m.Window.StopTimeline).Segments(m.Window.StartLSN, m.Window.StopLSN) {
			name := s.Name(c.SegmentSize)
			_, _, err := archive.Fetch(ctx, name)
			switch {
			case errors.Is(err, walarchive.ErrNotExist): // warned of before
			case err != nil && isDamage(err):
				v.damagedWAL(c, name, err)
			case err != nil:
				return err
			default:
				v.walFiles++
			}
		}
	}
	return nil
}

// damagedWAL is called from several goroutines. It names the snapshots that need the segment to become consistent;
// recovery beyond it ends there for all earlier ones.
func (v *verifyRun) damagedWAL(c *walarchive.Coverage, key string, err error) {
	d := damageJSON{Type: "damage", Object: key, Error: err.Error()}
	file := key[strings.LastIndexByte(key, '/')+1:]
	for _, m := range ofArchive(v.snapshots, archiveKey{c.Cluster, c.System}) {
		for _, s := range c.PathTo(m.Window.StopTimeline).Segments(m.Window.StartLSN, m.Window.StopLSN) {
			if s.Name(c.SegmentSize) == file {
				d.Snapshots = append(d.Snapshots, m.ID)
			}
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.damage = append(v.damage, d)
}

type verifyJSON struct {
	Type      string `json:"type"`
	Snapshots int    `json:"snapshots"`
	Files     int64  `json:"files"`
	Chunks    int64  `json:"chunks"`
	Packs     int    `json:"packs"`
	PackBytes int64  `json:"pack_bytes"`
	WALFiles  int64  `json:"wal_files"`
	WALBytes  int64  `json:"wal_bytes,omitempty"` // as stored; not counted where snapshots were named
	ReadData  bool   `json:"read_data"`
	Damaged   int    `json:"damaged"`
}

func (v *verifyRun) show() error {
	for _, d := range v.damage {
		if d.Snapshots == nil {
			d.Snapshots = []string{}
		}
		if d.Files == nil {
			d.Files = []string{}
		}
		if v.settings.JSON {
			if err := v.out.object(d); err != nil {
				return err
			}
		}
		v.out.line("", "damaged: %s", damageText(&d))
	}
	s := verifyJSON{"verify", v.report.Snapshots, v.report.Files, v.report.Chunks, v.report.Packs, v.report.Bytes, v.walFiles, v.walBytes, v.readData, len(v.damage)}
	if v.settings.JSON {
		if err := v.out.object(s); err != nil {
			return err
		}
	}
	if len(v.damage) > 0 {
		return v.failure()
	}
	switch {
	case v.settings.JSON:
		return nil
	case s.Snapshots == 0 && s.WALFiles == 0:
		v.out.info("nothing to verify: no snapshots yet%s", ofCluster(v.settings.Cluster))
		return nil
	}
	text := fmt.Sprintf("%s with %s: all of %s in %s ", showCount(int64(s.Snapshots), "snapshot", "snapshots"),
		showCount(s.Files, "file", "files"), showCount(s.Chunks, "chunk", "chunks"), showCount(int64(s.Packs), "pack", "packs"))
	if v.readData {
		text += fmt.Sprintf("(%s) and %s of WAL are intact, every byte was read", showBytes(s.PackBytes), showCount(s.WALFiles, "file", "files"))
	} else {
		text += fmt.Sprintf("(%s) are there; --read-data reads them", showBytes(s.PackBytes))
	}
	return v.out.print("%s, in %s\n", text, showDuration(time.Since(v.begun)))
}

func damageText(d *damageJSON) string {
	text := d.Object + ": " + d.Error
	if len(d.Snapshots) > 0 {
		text += "; needed by " + strings.Join(d.Snapshots, ", ")
	}
	if len(d.Files) > 0 {
		text += "; for " + strings.Join(d.Files, ", ")
	}
	if d.MoreFiles > 0 {
		text += fmt.Sprintf(" and %d more", d.MoreFiles)
	}
	return text
}

// failure sums the damage up: which snapshots are concerned, and which are not.
func (v *verifyRun) failure() error {
	concerned := map[string]bool{}
	for _, d := range v.damage {
		for _, id := range d.Snapshots {
			concerned[id] = true
		}
	}
	err := fmt.Errorf("verify: %s damaged, %d of %s concerned", showCount(int64(len(v.damage)), "object is", "objects are"),
		len(concerned), showCount(int64(len(v.snapshots)), "snapshot", "snapshots"))
	return withHint(classified{err, repo.ErrDamaged}, "keep the snapshots that are not concerned, and take a new backup: it stores what is damaged afresh if it still is in the cluster")
}
