package repo

import (
	"context"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

const (
	// timesApart is by how much the end that a snapshot claims and the time that the storage has for it may differ. Waiting for WAL and time zones that were
	// taken for UTC stay below it.
	timesApart = 24 * time.Hour
	// timesCompared is how many snapshots it takes to call it a majority. Of one or two, as a prune every night finds them, it is no sign of a
	// storage whose times are wrong, but of one host's clock; the bounds see to that.
	timesCompared = 3
)

// Ended tells when a snapshot ended, by what it says of itself; zero if that is not known.
type Ended func(Commit) time.Time

// ages tells how old snapshots are for retention.
type ages struct {
	fixed    map[string]time.Time // of those that a run has listed, by key
	returned map[string]bool      // keys of those that count again after a run has ended them
	previous time.Time            // of the newest run
	created  time.Time            // of the repository
	now      time.Time
	ended    Ended

	compared int     // snapshots of which two times were found
	apart    []Timed // those of which they differ
}

func (r *Repo) ages(last *gcRun, now time.Time, ended Ended) *ages {
	a := &ages{fixed: map[string]time.Time{}, returned: last.expired, created: r.config.Created, now: now, ended: ended}
	if last.Number > 0 {
		a.previous = last.Time
	}
	for _, v := range last.Valid {
		a.fixed[v.key()] = v.KeptSince
	}
	return a
}

// finding is an age and how it was found.
type finding struct {
	since time.Time
	fixed bool      // by a run; otherwise it is what the next run would fix, if it ran now
	ended time.Time // by the snapshot itself; zero: not known, or not asked
}

// of is the rule. The first run that lists a snapshot takes the time at which it says that it ended, but none after the storage had it, and none before
// the run before, which did not find it; later runs copy that. So a host can claim no other age than one that makes hardly a difference, and the times of
// a bucket that was copied, which are all too late, move nothing.
//
// The earlier bound is the pruning host's clock, as written in the run: the storage's time of gc/<n> would be that of the copy. Where it lies after the later one, one
// of the clocks is wrong, and the later bound gives way: it makes the snapshot younger, which keeps it. But younger than now it never is, or after a
// host with a clock that ran ahead has pruned once, a snapshot would stand in the place of all that follow.
func (a *ages) of(c Commit, key string, stored time.Time) finding {
	if t, ok := a.fixed[key]; ok {
		return finding{since: t, fixed: true}
	}
	earliest := a.previous
	if earliest.IsZero() || a.returned[key] { // a run has listed this one before the last one
		earliest = a.created
	}
	found := finding{since: stored}
	if stored.After(a.now) && !earliest.After(a.now) { // the storage's clock runs ahead, and nothing says that this host's runs behind
		found.since = a.now
	}
	if a.ended != nil && !c.Refused() {
		found.ended = a.ended(c)
	}
	if !found.ended.IsZero() && found.ended.Before(found.since) {
		found.since = found.ended
	}
	if earliest.After(a.now) {
		earliest = a.now
	}
	if found.since.Before(earliest) {
		found.since = earliest
	}
	found.since = found.since.UTC()
	if !found.ended.IsZero() {
		a.compared++
		if stored.Sub(found.ended).Abs() > timesApart {
			a.apart = append(a.apart, Timed{Cluster: c.Cluster, ID: c.ID, Ended: found.ended.UTC(), Stored: stored.UTC()})
		}
	}
	return found
}

// agree refuses to go by times that contradict each other for most snapshots: *TimesError.
func (a *ages) agree() error {
	if a.compared < timesCompared || 2*len(a.apart) <= a.compared {
		return nil
	}
	return &TimesError{Apart: a.apart, Compared: a.compared}
}

// keptSince is the age of a snapshot that stays.
func (p *pruner) keptSince(j *judged) time.Time {
	if p.ages == nil {
		p.ages = p.Repo.ages(p.last, p.run.Time, p.o.Ended)
	}
	return p.ages.of(j.Commit, j.key, j.info.ModTime).since
}

// timesAgree ends the run before it fixes ages that are most likely wrong.
func (p *pruner) timesAgree() error {
	if p.ages == nil || p.o.AcceptTimes {
		return nil
	}
	return p.ages.agree()
}

// Timed is a snapshot with the two times that are known of it.
type Timed struct {
	Cluster, ID   string
	Ended, Stored time.Time // as it claims; as the storage says
}

// TimesError says that of most snapshots whose age no run has fixed the storage has another time than they claim, so that the ages would be
// wrong, and once fixed stay so.
type TimesError struct {
	Apart    []Timed
	Compared int // snapshots whose times were compared
}

func (e *TimesError) Error() string {
	first := e.Apart[0]
	return fmt.Sprintf("of %d of %d new snapshots the storage's time is not theirs, the first is %s of cluster %s, which ended at %s and was stored at %s",
		len(e.Apart), e.Compared, first.ID, first.Cluster, first.Ended.Format(time.RFC3339), first.Stored.Format(time.RFC3339))
}

// Retained is what retention knows of a snapshot.
type Retained struct {
	Since  time.Time // its age
	Fixed  bool      // a run has listed it with this age; otherwise it is the one that a run would give it now
	Shared bool      // another cluster has an object of the same ID: a request for one would be one for both
	Gone   bool      // a prune has removed it meanwhile; nothing else is known
}

// RetentionOptions of Retention.
type RetentionOptions struct {
	Now         time.Time // by this host's clock
	Ended       Ended
	AcceptTimes bool // as of PruneOptions
}

// Retention says of snapshots that count how old they are, for policies, in their order. *TimesError.
func (r *Repo) Retention(ctx context.Context, commits []Commit, o RetentionOptions) ([]Retained, error) {
	stored, namesakes := map[string]time.Time{}, map[string]int{}
	if err := r.store.List(ctx, snapshotsPrefix, func(i storage.Info) error {
		stored[i.Key] = i.ModTime
		namesakes[outcomeSession(i.Key)]++
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	run, err := r.newestRun(ctx)
	if err != nil {
		return nil, err
	}
	ages := r.ages(run, o.Now, o.Ended)
	all := make([]Retained, len(commits))
	for i, c := range commits {
		key := snapshotsPrefix + c.Cluster + "/" + c.ID
		if _, there := stored[key]; !there {
			all[i].Gone = true
			continue
		}
		found := ages.of(c, key, stored[key])
		all[i] = Retained{Since: found.since, Fixed: found.fixed, Shared: namesakes[c.ID] > 1}
	}
	if o.AcceptTimes {
		return all, nil
	}
	return all, ages.agree()
}

// Assumption is what a dry run takes to be asked for besides what is, by the IDs of snapshots.
type Assumption struct{ Forgotten, Narrowed map[string]bool }

// assume adds to the requests what is only assumed.
func (m *marks) assume(a *Assumption) {
	if a == nil {
		return
	}
	for sid := range a.Forgotten {
		m.forgotten[sid] = true
	}
	for sid := range a.Narrowed {
		m.narrowed[sid] = true
	}
}

// Gain is the room that the snapshots that leave give back.
type Gain struct {
	Bytes int64 // with the next runs: packs of which nothing is needed then, and what is not needed of those that are repacked
	Later int64 // needed by no other snapshot, but in packs that are not repacked as long as most of what they hold is needed
}

// gain sums up what only snapshots that leave still need. It is an estimate: what is copied takes a little room of its own.
func (p *pruner) gain() {
	for _, part := range p.parts {
		for key, k := range part.byKey {
			switch {
			case !k.there || k.leaving == 0:
			case k.alive == 0 && p.mayGo(key):
				p.report.Gain.Bytes += p.fresh[key]
			case p.repacked[key]:
				p.report.Gain.Bytes += k.leaving
			default:
				p.report.Gain.Later += k.leaving
			}
		}
	}
}
