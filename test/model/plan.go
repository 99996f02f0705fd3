package model

import (
	"strings"
	"time"
)

// plan is the mood of a schedule: who takes part, and how rough the weather is. Chances are in a thousand.
type plan struct {
	writers, pruners, readers int
	backups, prunes           int  // of each
	keeper                    bool // somebody forgets, pins and unpins
	chunks                    int  // that there are to back up
	flush                     int  // a backup ends its packs early

	pages     int     // keys in a page of a listing; 0: all
	switching int     // somebody else's turn
	stall     int     // a call is held up for a while
	faults    int     // a call fails, with or without effect
	late      int     // a call has its effect, and is answered later
	crash     int     // a process dies
	outage    int     // the machine goes down
	jump      int     // time goes by
	skew      int     // an actor's clock is wrong
	dry       int     // a prune is a dry run
	rebuild   int     // instead of a prune the index is made anew
	repair    int     // instead of a prune a pack is called damaged
	wal       int     // a backup needs WAL
	locked    int     // an object may not be deleted until everybody has gone
	favourite []point // what is held up half the time
}

// point is a call at which a delay may hurt.
type point struct{ verb, prefix string }

// favourites are such points, and some that hurt together; the first is none.
func favourites() [][]point {
	all := [][]point{nil}
	for _, p := range []point{
		{verbPut, "sessions/"}, {verbPut, "packs/"}, {verbPut, "index/"}, {verbPut, "snapshots/"}, {verbPut, "gc/"},
		{verbPut, "base/"}, {verbPut, "pins/"}, {verbPut, "forget/"},
		{verbList, "wal/"}, {verbPut, "wal/"}, {verbDelete, "wal/"},
		{verbGet, "sessions/"}, {verbGet, "snapshots/"}, {verbGet, "gc/"}, {verbGet, "base/"}, {verbGet, "index/"}, {verbGet, "packs/"},
		{verbList, "gc/"}, {verbList, "sessions/"}, {verbList, "snapshots/"}, {verbList, "index/"}, {verbList, "packs/"},
		{verbList, "pins/"}, {verbList, "forget/"}, {verbList, "base/"},
		{verbDelete, "packs/"}, {verbDelete, "sessions/"}, {verbDelete, "snapshots/"}, {verbDelete, "index/"}, {verbDelete, "base/"},
		{verbDelete, "gc/"}, {verbBegin, ""},
	} {
		all = append(all, []point{p})
	}
	return append(all,
		[]point{{verbPut, "pins/"}, {verbPut, "gc/"}},
		[]point{{verbPut, "pins/"}, {verbPut, "gc/"}, {verbBegin, ""}},
		[]point{{verbPut, "sessions/"}, {verbPut, "snapshots/"}},
		[]point{{verbPut, "snapshots/"}, {verbPut, "gc/"}},
		[]point{{verbPut, "gc/"}, {verbDelete, ""}},
	)
}

// parsePoints reads what the flag -model.around says: "put pins/,put gc/".
func parsePoints(s string) (points []point) {
	for _, one := range strings.Split(s, ",") {
		if verb, prefix, ok := strings.Cut(one, " "); ok {
			points = append(points, point{verb, prefix})
		}
	}
	return points
}

// newPlan draws a plan. Delays are around these points, if there are any.
func newPlan(t *tape, around []point) plan {
	p := plan{
		writers: 1 + t.pick(3), pruners: 1 + t.pick(2), readers: t.pick(2),
		backups: 1 + t.pick(3), prunes: 2 + t.pick(3), keeper: t.chance(600), chunks: 3 + t.pick(4),
	}
	p.flush = oneOf(t, 300, 0)
	p.pages = oneOf(t, 0, 0, 1, 2, 3)
	p.switching = oneOf(t, 20, 50, 100, 300, 700)
	p.stall = oneOf(t, 0, 5, 20, 50)
	p.faults = oneOf(t, 0, 0, 5, 20)
	p.late = oneOf(t, 0, 0, 20)
	p.crash = oneOf(t, 0, 0, 3, 10)
	p.outage = oneOf(t, 0, 0, 0, 3)
	p.jump = oneOf(t, 0, 5, 20, 60)
	p.skew = oneOf(t, 0, 300)
	p.dry = oneOf(t, 0, 100)
	p.locked = oneOf(t, 0, 0, 0, 100)
	p.rebuild = oneOf(t, 0, 0, 200)
	p.repair = oneOf(t, 0, 0, 200)
	p.wal = oneOf(t, 0, 0, 900)
	p.favourite = oneOf(t, favourites()...)
	if around != nil {
		p.favourite = around
	}
	return p
}

// tick is how long a call takes. Sessions that begin in different calls so begin in different seconds, and their IDs sort the
// same in every replay. The odd rest keeps the scheduler from waking at the very moment at which a timer of the code fires, when it
// would be left to chance who goes first.
const tick = time.Second + 7*time.Nanosecond

const day = 24 * time.Hour

// skews are by how much a clock may be wrong.
func skews() []time.Duration {
	return []time.Duration{3 * time.Hour, -3 * time.Hour, 3 * day, -3 * day}
}

// jumps are how much time may go by at once: less and more than the silence that means dead, and than the age that no session
// reaches.
func jumps() []time.Duration {
	return []time.Duration{time.Minute, 11 * time.Minute, 2 * time.Hour, day + time.Hour, 8 * day}
}
