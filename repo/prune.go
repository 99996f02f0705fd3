package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/storage"
)

const (
	// pruneCluster stands where other sessions' clusters stand, in names and caches. No cluster can be called so.
	pruneCluster = "_prune"

	defaultFenceAfter = 24 * time.Hour
	// maxSessionAge is when a session is too old to be waited for, whatever it does.
	maxSessionAge = 7 * 24 * time.Hour
)

// PruneOptions of Prune.
type PruneOptions struct {
	Host       string
	CacheDir   string // as for OpenView
	Now        func() time.Time
	FenceAfter time.Duration // an unfinished session that wrote nothing for so long is taken for dead; 0: 24 hours
	MaxRepack  int64         // bytes of packs that one run reads to repack them; 0: none; NoLimit: as many as it takes for little waste to be left
	MaxDelete  float64       // largest share of the bytes of all packs, and of these and the WAL together, that may be deleted at once, 0 to 1
	DryRun     bool          // nothing is written, only the report made
	Mark       Marker
	// Archived gives the keys of archive objects that a snapshot is not consistent without; some need not exist. It is asked where objects are locked. nil: none.
	Archived func(Commit) []string
	WAL      WALNeed // nil: archived WAL stays
	Ended    Ended   // for the ages of snapshots; nil: they go by the storage's times
	// AcceptTimes fixes ages also where the times of most new snapshots contradict each other (*TimesError).
	AcceptTimes bool
	// Assume is taken to be asked for besides what is, in a dry run that says what it would gain. Sessions that go on do not end such a run.
	Assume *Assumption
}

// Marker calls live for every chunk, of data and of metadata, that restoring the snapshots reads; more than once does no harm.
// A *LossError says that some of it could not be found out because of damage, and of nothing else; any other error ends the prune.
type Marker func(ctx context.Context, v *View, snapshots []Commit, live func(chunk.ID)) error

// LossError says what a Marker could not read. Everything else was marked.
type LossError struct{ Losses []error }

func (e *LossError) Error() string { return errors.Join(e.Losses...).Error() }

// Unwrap gives errors.Is and errors.As all of them.
func (e *LossError) Unwrap() []error { return e.Losses }

// Amount is a number of packs and their bytes.
type Amount struct {
	Packs int
	Bytes int64
}

func (a *Amount) add(bytes int64) {
	a.Packs++
	a.Bytes += bytes
}

// PruneReport says what a run did, or, dry, would do.
type PruneReport struct {
	Run      uint64 // its number
	Valid    int    // snapshots that stay
	Expired  []Commit
	Held     []Commit // forgotten, and valid as long as there is damage; of these only sound ones
	Last     []Commit // forgotten, and valid because their clusters have nothing else, and no request says that this is meant
	Returned []Commit // that the last run had expired, and that are pinned now
	Fenced   []Unfinished

	Stored    Amount // all packs, before
	Swept     Amount // deleted now
	Condemned Amount // deleted by the next run, unless somebody needs them by then
	Repacked  Amount // the part of Condemned of which what is alive was copied
	Rescued   Amount // condemned by the last run, and needed after all
	// Packs counts files of these.
	WALStored    Amount // all archived WAL, before; not known where there is damage
	WALSwept     []WALRange
	WALCondemned []WALRange

	Gain Gain // by the snapshots that leave; a dry run only

	Tidied    Amount   // files that writers left half-made when they were killed
	Locked    []string // objects that the storage refuses to delete, and why it does so with one of them
	LockedErr error
	Waiting   []string // objects that are locked yet, in a storage that hides nothing that is: a later run deletes them
	Damage    []error  // as long as there is any, no pack is deleted
	Stopped   bool     // a newer run has begun to clean up, so this one left it to that

	Locks LockReport
}

// Unfinished is a session without an outcome.
type Unfinished struct {
	ID, Cluster, Host string
	PID               int
	Started           time.Time // by its own clock
	LastSeen          time.Time // when, by the storage's clock, it last wrote something
	Repack            bool      // a prune's

	stated  uint64
	nowhere bool  // it can commit nowhere: Cluster is noCluster
	err     error // why the announcement cannot be read; then only ID and LastSeen are known
}

// BlockedError says that sessions may still use what the run would delete.
type BlockedError struct{ Sessions []Unfinished }

func (e *BlockedError) Error() string {
	return fmt.Sprintf("prune: %d unfinished sessions may use what it would delete, the first is %s of %s", len(e.Sessions), e.Sessions[0].ID, e.Sessions[0].Host)
}

// VanishedError says that snapshots are gone that no request and no policy explains.
type VanishedError struct{ Snapshots []Commit } // Cluster and ID only

func (e *VanishedError) Error() string {
	return fmt.Sprintf("prune: %d snapshots are gone that nobody forgot, the first is %s of cluster %s", len(e.Snapshots), e.Snapshots[0].ID, e.Snapshots[0].Cluster)
}

// TooMuchError says that the run would delete more at once than it may: of all packs, or of these and the archived WAL together.
type TooMuchError struct {
	Swept, Stored Amount
	WAL           bool // they include WAL; Packs counts its files too
	Limit         float64
}

func (e *TooMuchError) Error() string {
	return fmt.Sprintf("prune: it would delete %d of %d bytes, which is more than %.0f %%", e.Swept.Bytes, e.Stored.Bytes, e.Limit*100)
}

// tooMuch returns a *TooMuchError if the run would. WAL alone has no such limit: who keeps one snapshot and the WAL behind it replaces most of it each time.
// Files that others have replaced count for nothing: of an idle server there may be more bytes of these than of all else.
func (p *pruner) tooMuch() error {
	s := p.report
	wal, not := WALAmount(s.WALSwept), p.replaced
	all := Amount{s.Swept.Packs + wal.Packs - not.swept.Packs, s.Swept.Bytes + wal.Bytes - not.swept.Bytes}
	of := Amount{s.Stored.Packs + s.WALStored.Packs - not.stored.Packs, s.Stored.Bytes + s.WALStored.Bytes - not.stored.Bytes}
	exceeds := func(part, whole Amount) bool { return float64(part.Bytes) > p.o.MaxDelete*float64(whole.Bytes) }
	switch {
	case exceeds(s.Swept, s.Stored):
		return &TooMuchError{Swept: s.Swept, Stored: s.Stored, Limit: p.o.MaxDelete}
	case exceeds(all, of):
		return &TooMuchError{Swept: all, Stored: of, WAL: true, Limit: p.o.MaxDelete}
	}
	return nil
}

// ErrOvertaken says that another prune run came first. This one deleted nothing.
var ErrOvertaken = errors.New("another prune run came first")

// pruner is one run. Its fields are filled in the order of the steps.
type pruner struct {
	*Repo
	o      PruneOptions
	report *PruneReport

	start    time.Time               // before everything
	last     *gcRun                  // P0
	packs    map[string]int64        // P1: size by key
	began    map[string]time.Time    // P1: when the storage saw each session announced
	seen     map[string]time.Time    // P1: when the storage last saw anything of each session
	segments map[string][]string     // P1: index segments of each session
	clusters map[string]string       // what sessions announced; "": it cannot be read
	fencing  map[string]bool         // P2: sessions that this run ends
	nowhere  []string                // P2: keys of announcements, of those of them that can have no outcome
	marks    *marks                  // P3
	outcomes map[string]storage.Info // by key
	sessions map[string]bool
	run      *gcRun // what P7 publishes
	ages     *ages
	staying  []Commit
	parting  []*judged // that somebody forgot
	lasting  []*judged // of parting, that stay because their clusters have nothing else
	parted   []named   // that an earlier run has ended, and that are deleted now
	leaving  []Commit  // of parting
	void     []string  // keys of outcomes without effect
	view     *View     // P4
	index    *listing
	fresh    map[string]int64 // the packs once more: size by key
	parts    []*part
	doubt    *distrust                      // whose packs are to be a chunk's place only where it has no other
	repacked map[string]bool                // packs of which what is alive is copied
	replaced struct{ stored, swept Amount } // WAL files: WALReplaced
}

// Prune removes what no snapshot needs (P0 to P8 of docs/protocol.md). Any number may run at once, beside any number of writers, on any
// host: one of them wins, and what it deletes nobody needs. A pack is deleted by the run after the one that condemned it.
//
// It reads metadata only, so a writer's keys are enough, unless there are things of another trust group: keys.ErrRole. Errors: that, *BlockedError, *VanishedError, *TimesError, *TooMuchError, ErrOvertaken, ErrDamaged where it
// is not known what counts; then no pack was deleted and no snapshot removed. After another error some may have been, as the run had decided. The
// report is also made with a *TooMuchError; where objects are locked, what became of Locks is told with a *BlockedError and a *VanishedError too.
func (r *Repo) Prune(ctx context.Context, o PruneOptions) (report *PruneReport, err error) {
	if o.FenceAfter == 0 {
		o.FenceAfter = defaultFenceAfter
	}
	p := &pruner{Repo: r, o: o, report: &PruneReport{}, start: o.Now()}
	defer func() { report, err = p.afterRefusal(ctx, report, err) }()
	if p.last, err = r.newestRun(ctx); err != nil { // P0
		return nil, err
	}
	p.report.Run = p.last.Number + 1
	if err := p.look(ctx); err != nil { // P1
		return nil, err
	}
	if err := p.openIndex(ctx); err != nil { // what cannot be read of it ends the run before it writes anything
		return nil, err
	}
	defer func() { err = errors.Join(err, p.view.Close()) }()
	if err := p.endSessions(ctx); err != nil { // P2
		return nil, err
	}
	if err := p.judge(ctx); err != nil { // P3
		return nil, err
	}
	if err := p.loadIndex(ctx); err != nil { // as it is now that sessions have ended
		return nil, err
	}
	if err := p.plan(ctx); err != nil { // P4
		return nil, err
	}
	if err := p.stillNewest(ctx); err != nil {
		return nil, err
	}
	if err := p.tooMuch(); err != nil {
		return p.report, err
	}
	if o.DryRun {
		return p.report, p.extendLocks(ctx)
	}
	if err := p.repack(ctx); err != nil { // P5
		return nil, err
	}
	if err := p.stillNewest(ctx); err != nil {
		return nil, err
	}
	if err := p.holdBack(ctx); err != nil {
		return nil, err
	}
	if err := p.writeBase(ctx); err != nil { // P6
		return nil, err
	}
	if err := p.extendLocks(ctx); err != nil {
		return nil, err
	}
	if err := p.publish(ctx); err != nil { // P7
		return nil, err
	}
	return p.report, p.sweep(ctx) // P8
}

// stillNewest looks again before damage is believed: what a newer run has moved is missing where this one looks.
func (p *pruner) stillNewest(ctx context.Context) error {
	if len(p.report.Damage) == 0 {
		return nil
	}
	newest, err := p.newestNumber(ctx)
	if err == nil && newest != p.last.Number {
		err = ErrOvertaken
	}
	return err
}

// openIndex loads what is known of all packs.
func (p *pruner) openIndex(ctx context.Context) (err error) {
	if p.view, p.index, err = p.openView(ctx, p.o.CacheDir, pruneCluster, forReading); err != nil {
		return err
	}
	if err := p.wholeIndex(); err != nil {
		return errors.Join(err, p.view.Close())
	}
	return nil
}

// loadIndex loads it anew.
func (p *pruner) loadIndex(ctx context.Context) (err error) {
	if p.index, err = p.view.load(ctx); err != nil {
		return err
	}
	return p.wholeIndex()
}

// wholeIndex makes sure that the index is the one that the last run left, and all of it: a base that is made of a part of it would lose the rest.
func (p *pruner) wholeIndex() error {
	if p.index.run.Number != p.last.Number {
		return ErrOvertaken
	}
	if len(p.view.foreign) > 0 {
		return errOthers("prune", p.view.foreign[0])
	}
	return p.view.unreadableIndex()
}
