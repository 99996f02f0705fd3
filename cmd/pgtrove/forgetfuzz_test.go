package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// randomCluster is a cluster of some days with up to three timelines, gaps in their WAL, and snapshots of any kind on them.
type randomCluster struct {
	*rand.Rand
	w         *retainer
	r         *repo.Repo
	key       archiveKey
	timelines pg.Timeline
	histories map[pg.Timeline]pg.History
	begin     map[pg.Timeline]int   // day
	there     map[pg.Timeline][]int // days that are archived
	told      []string              // what it is
}

const randomDays = 10

func (c *randomCluster) tell(format string, args ...any) {
	c.told = append(c.told, fmt.Sprintf(format, args...))
}

func (c *randomCluster) push(name string, content []byte, facts walarchive.Facts) {
	_, err := c.key.in(c.r).Push(c.w.t.Context(), name, content, facts)
	c.w.must(err)
}

// branch begins a timeline.
func (c *randomCluster) branch(tli pg.Timeline) {
	parent := pg.Timeline(1 + c.IntN(int(tli)-1))
	day := min(randomDays-1, c.begin[parent]+c.IntN(6))
	at := pg.LSN(day+1)*pg.LSN(testSegment) + []pg.LSN{8192, 8192, 2000, 0}[c.IntN(4)]
	if before, _, _ := c.histories[parent].Bounds(parent); at <= before {
		at = before + 100
	}
	text := ""
	for _, s := range c.histories[parent][:len(c.histories[parent])-1] {
		text += fmt.Sprintf("%d\t%s\tx\n", s.Timeline, s.LSN)
	}
	text += fmt.Sprintf("%d\t%s\tx\n", parent, at)
	c.begin[tli] = int(uint64(at)/uint64(testSegment)) - 1
	c.w.now = morning(c.begin[tli]).Add(17 * time.Hour)
	c.push(tli.HistoryName(), []byte(text), walarchive.Facts{})
	h, err := pg.ParseHistory(tli, []byte(text))
	c.w.must(err)
	c.histories[tli] = h
	c.tell("timeline %d leaves %d on day %d, %d bytes in", tli, parent, c.begin[tli], uint64(at)%uint64(testSegment))
}

// wal archives some days of a timeline.
func (c *randomCluster) wal(tli pg.Timeline) {
	var there []int
	for d := c.begin[tli]; d <= min(randomDays, c.begin[tli]+c.IntN(8)); d++ {
		if c.IntN(20) == 0 {
			continue
		}
		there = append(there, d)
		s := pg.Segment{Timeline: tli, Number: uint64(d + 1)}
		at := morning(d).Add(18*time.Hour + time.Duration(tli)*time.Minute)
		c.w.now = at
		c.push(s.Name(testSegment), make([]byte, testSegment), walarchive.Facts{SegmentSize: testSegment, FirstCommit: at, LastCommit: at, End: s.End(testSegment)})
	}
	c.there[tli] = there
	c.tell("WAL of %d: %v", tli, there)
}

// take adds a snapshot to a plan.
func (c *randomCluster) take(p *clusterPlan, id string) {
	tli := pg.Timeline(1 + c.IntN(int(c.timelines)))
	day := c.begin[tli] + c.IntN(6)
	start := pg.LSN(day+1)*pg.LSN(testSegment) + 40
	if begin, _, _ := c.histories[tli].Bounds(tli); start <= begin {
		start = begin + 40
	}
	at := morning(day).Add(time.Duration(len(p.manifests)) * time.Minute)
	p.manifests[id] = &snapshot.Manifest{
		Version: snapshot.Version, ID: id, Cluster: c.key.cluster, Server: snapshot.Server{SystemID: testSystem, WALSegmentSize: testSegment},
		Window: snapshot.Window{Timeline: tli, StopTimeline: tli, StartLSN: start, StopLSN: start + 4096, StartTime: at, StopTime: at}, WAL: snapshot.WALUnproven,
	}
	if slices.Contains(c.there[tli], day) {
		p.manifests[id].WAL = snapshot.WALComplete
	}
	p.commits[id] = repo.Commit{Cluster: c.key.cluster, ID: id, Narrowed: c.IntN(5) == 0, Pinned: c.IntN(10) == 0}
	p.ages[id], p.lacking[id] = repo.Retained{Since: at}, c.IntN(12) == 0
	c.tell("%s on %d, day %d, %d bytes in: narrow %v, pinned %v, lacking %v", id, tli, day, uint64(start)%uint64(testSegment), p.commits[id].Narrowed, p.commits[id].Pinned, p.lacking[id])
}

func (c *randomCluster) policy() snapshot.Policy {
	policy := snapshot.Policy{Last: c.IntN(3), Daily: c.IntN(4)}
	if c.IntN(3) > 0 {
		policy.PITR = snapshot.Period{Hours: 1 + c.IntN(24*7)}
	}
	return policy
}

func emptyPlan(cluster string) *clusterPlan {
	return &clusterPlan{cluster: cluster, commits: map[string]repo.Commit{}, manifests: map[string]*snapshot.Manifest{}, states: map[string]snapshot.WALState{},
		ages: map[string]repo.Retained{}, archives: map[archiveKey]*plannedArchive{}, lacking: map[string]bool{}}
}

// carriedOut is the plan of what is left.
func carriedOut(p *clusterPlan) *clusterPlan {
	q := emptyPlan(p.cluster)
	q.ages, q.lacking = p.ages, p.lacking
	for _, v := range p.verdicts {
		if v.Keep() {
			commit := p.commits[v.ID]
			commit.Narrowed = commit.Narrowed || p.narrows(v)
			q.commits[v.ID], q.manifests[v.ID] = commit, p.manifests[v.ID]
		}
	}
	return q
}

// TestAPolicyKeepsItsPromisesWhateverThereIs: no plan is refused because it would break one, and what it leaves is planned likewise.
func TestAPolicyKeepsItsPromisesWhateverThereIs(t *testing.T) {
	w := newRetainer(t)
	r := w.open(w.store)
	for seed := uint64(190); seed < 310; seed++ { // of 2500, in which each rule is needed
		c := &randomCluster{Rand: rand.New(rand.NewPCG(seed, 9)), w: w, r: r, key: archiveKey{fmt.Sprintf("c%d", seed), testSystem},
			histories: map[pg.Timeline]pg.History{1: pg.NewHistory(1)}, begin: map[pg.Timeline]int{}, there: map[pg.Timeline][]int{}}
		c.timelines = pg.Timeline(1 + c.IntN(3))
		for tli := pg.Timeline(2); tli <= c.timelines; tli++ {
			c.branch(tli)
		}
		for tli := pg.Timeline(1); tli <= c.timelines; tli++ {
			c.wal(tli)
		}
		p := emptyPlan(c.key.cluster)
		for i := range 1 + c.IntN(5) {
			c.take(p, fmt.Sprint("s", i))
		}
		policy := c.policy()
		if policy.IsZero() {
			continue
		}
		c.tell("%+v", policy)
		for run := range 2 {
			if err := p.judge(t.Context(), r, morning(randomDays+1), policy); err != nil {
				t.Errorf("seed %d, run %d: %v\n  %s", seed, run, err, strings.Join(c.told, "\n  "))
				break
			}
			p = carriedOut(p)
		}
	}
}
