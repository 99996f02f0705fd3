package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// receives stores the first so many bytes of a day's segment in two parts, and returns their keys. The last commit is of noon.
func (w *retainer) receives(day, to int) (keys []string) {
	w.t.Helper()
	n := pg.Segment{Timeline: 1, Number: uint64(day + 1)}
	noon := morning(day).Add(10 * time.Hour)
	a := archiveKey{"main", testSystem}.in(w.open(w.store))
	_, err := a.AnnounceReceiver(w.t.Context())
	w.must(err)
	for _, p := range [][2]int{{0, 1000}, {1000, to}} {
		w.must(a.PushPart(w.t.Context(), walarchive.Part{
			Segment: n.Name(testSegment), Receiver: "20260301T120000Z-0123456789abcdef", From: int64(p[0]), To: int64(p[1]), Content: make([]byte, p[1]-p[0]),
			Facts: walarchive.Facts{SegmentSize: testSegment, FirstCommit: noon, LastCommit: noon, End: n.Start(testSegment) + pg.LSN(p[1])},
		}))
	}
	return slices.DeleteFunc(w.list("wal/main/"), func(key string) bool { return !strings.Contains(key, n.Name(testSegment)+".part/") })
}

// shows returns what a command prints, as it is for people and as JSON.
func (w *retainer) shows(do func() error) (text string, objects []map[string]any) {
	w.t.Helper()
	for _, w.settings.JSON = range []bool{true, false} {
		w.stdout.Reset()
		w.must(do())
		text = w.stdout.String()
		if !w.settings.JSON {
			break
		}
		for line := range strings.Lines(text) {
			var o map[string]any
			w.must(json.Unmarshal([]byte(line), &o))
			objects = append(objects, o)
		}
	}
	return text, objects
}

func TestWhatIsReceivedIsListed(t *testing.T) {
	w := newRetainer(t)
	w.take("main", 0)
	w.wal("main", 0)
	w.wal("main", 1)
	w.receives(2, 6000)
	list := func() error {
		archives, err := findArchives(t.Context(), w.open(w.store), "main", nil)
		w.must(err)
		return w.showArchives(archives, &catalog{})
	}
	info := func() error {
		r := w.open(w.store)
		all, err := loadCatalog(t.Context(), r, "main")
		w.must(err)
		archives, err := findArchives(t.Context(), r, "main", all.snapshots)
		w.must(err)
		c, newest, err := clusterInfo(t.Context(), archiveKey{"main", testSystem}.in(r), archives[0], all)
		w.must(err)
		return w.showCluster(c, newest)
	}
	const to, segment = "0/301770", "000000010000000000000003"
	text, objects := w.shows(list)
	if !strings.Contains(text, segment+"  (received in part)") || !strings.Contains(text, to) {
		t.Errorf("%s", text)
	}
	if o := objects[len(objects)-1]; len(objects) != 2 || o["type"] != "received" || o["segment"] != segment || o["to_lsn"] != to || o["parts"] != 2.0 {
		t.Errorf("%v", objects)
	}
	text, objects = w.shows(info)
	if !strings.Contains(text, "to "+to+"  (") || !strings.Contains(text, "received: timeline 1 up to "+to+", the last segment ("+segment+") in 2 parts") {
		t.Errorf("%s", text)
	}
	if o := objects[0]; len(o["received"].([]any)) != 1 || o["windows"].([]any)[0].(map[string]any)["to_lsn"] != to || len(o["gaps"].([]any)) > 0 {
		t.Errorf("%v", o)
	}

	w.wal("main", 3) // and of day 2 nothing more
	for what, do := range map[string]func() error{"list": list, "info": info} {
		if text, _ := w.shows(do); !strings.Contains(text, "1 segment from "+segment+" on, received up to "+to+" only") {
			t.Errorf("%s: %s", what, text)
		}
	}
	if text, _ := w.shows(info); strings.Contains(text, "received: ") {
		t.Errorf("%s", text)
	}
}

func TestADamagedPartConcernsWhoNeedsIt(t *testing.T) {
	w := newRetainer(t)
	id := w.take("main", 0) // its WAL is only there in part
	keys := w.receives(0, 500_000)
	for _, share := range []uint64{0, 1} {
		for _, names := range [][]string{nil, {id}} {
			if _, damage, code := w.verifies(verifyOptions{share: readShare{share}}, names...); code != 0 {
				t.Errorf("sound: exit %d, %+v\n%s", code, damage, w.stderr.String())
			}
		}
	}
	for key, want := range map[string]string{
		keys[1]: `"kind":"part"|"part":{"segment":"000000010000000000000001","from":1000,"to":500000}`, "wal/main/7/receive": `"kind":"receivers"|"receivers":{"version":1,`,
	} {
		shown, err := inspectWAL(t.Context(), w.open(w.store), key)
		w.must(err)
		text, err := json.Marshal(shown)
		w.must(err)
		for part := range strings.SplitSeq(want, "|") {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s: %s", key, text)
			}
		}
	}
	w.alter(keys[1], 100)
	for _, names := range [][]string{nil, {id}} {
		_, damage, code := w.verifies(verifyOptions{share: readShare{1}}, names...)
		if code != codeDamaged || len(damage) != 1 || damage[0].Object != keys[1] || !slices.Equal(damage[0].Snapshots, []string{id}) {
			t.Errorf("%v: exit %d, %+v", names, code, damage)
		} else if b := damage[0].Breaks; b == nil || b.FromLSN != 0x100000+1000 || b.ToLSN != 0x100000+500_000 {
			t.Errorf("%+v", b)
		}
	}
	// Once the segment is there, nobody needs it; it is damage until a prune removes it.
	w.wal("main", 0)
	_, damage, code := w.verifies(verifyOptions{share: readShare{1}})
	if code != codeDamaged || len(damage) != 1 || len(damage[0].Snapshots) > 0 || damage[0].Breaks != nil {
		t.Errorf("exit %d, %+v", code, damage)
	}
	w.prunes(3, 2)
	if _, damage, code := w.verifies(verifyOptions{share: readShare{1}}); code != 0 {
		t.Errorf("exit %d, %+v", code, damage)
	}
	if left := w.list("wal/main/"); len(left) != 2 || !strings.HasSuffix(left[1], "/receive") {
		t.Errorf("left: %v", left)
	}
}
