package walahead

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
)

// LedgerFile is the file in the data directory that names what was given up and is not yet noted in the archive. It is never
// backed up: it is about this server's archiving, not about the data.
const LedgerFile = "pgtrove.gaps"

// ErrLedger says that the ledger is there and cannot be understood. It must not be replaced: what it held would be forgotten.
var ErrLedger = errors.New("damaged record of gaps")

// Target is where files were to be archived. What is known of one says nothing of another: a server may archive into two.
type Target struct {
	Repo    string      `json:"repo"` // as the settings name it: its ID may not be known
	Cluster string      `json:"cluster"`
	System  pg.SystemID `json:"system_id"`
}

// Gap is a row of segments that were given up, one after another.
type Gap struct {
	Target
	SegmentSize pg.SegmentSize `json:"segment_size"`
	Timeline    pg.Timeline    `json:"timeline"`
	First       uint64         `json:"first"` // numbers of segments
	Last        uint64         `json:"last"`
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Limit       int64          `json:"limit"` // bytes
	Waiting     int64          `json:"waiting"`
	Error       string         `json:"error"`
}

// row says whether both are of the same row, if their segments follow each other.
func (g Gap) row(o Gap) bool {
	return g.Target == o.Target && g.SegmentSize == o.SegmentSize && g.Timeline == o.Timeline
}

// File is a file of another kind that was given up.
type File struct {
	Target
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	Limit   int64     `json:"limit"` // bytes
	Waiting int64     `json:"waiting"`
	Error   string    `json:"error"`
}

// Try is the last time that a target's storage was found not to take anything.
type Try struct {
	Target
	At    time.Time `json:"at"`
	Full  bool      `json:"full"` // it answers, and has no room
	Error string    `json:"error"`
}

// Ledger is the content of the file.
type Ledger struct {
	Gaps  []Gap  `json:"gaps"`
	Files []File `json:"files,omitempty"`
	Tries []Try  `json:"tries,omitempty"` // one of each target

	path string
}

type ledgerFile struct {
	Version int             `json:"version"`
	Ledger  json.RawMessage `json:"ledger"`
	Sum     string          `json:"sha256"`
}

const ledgerVersion = 2

// ReadLedger reads the ledger of a data directory; an empty one where there is none. Who wants to change it calls ChangeLedger.
// Errors: ErrLedger, and those of reading.
func ReadLedger(pgdata string) (*Ledger, error) {
	l := &Ledger{path: filepath.Join(pgdata, LedgerFile)}
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of gaps: %w", err)
	}
	var f ledgerFile
	if json.Unmarshal(text, &f) != nil || f.Version != ledgerVersion || f.Sum != ledgerSum(f.Ledger) || json.Unmarshal(f.Ledger, l) != nil {
		return nil, fmt.Errorf("%w: %s", ErrLedger, l.path)
	}
	return l, nil
}

func ledgerSum(content []byte) string {
	sum := sha256.Sum256(bytes.TrimSpace(content))
	return hex.EncodeToString(sum[:])
}

// Empty says that there is nothing to bring into any archive.
func (l *Ledger) Empty() bool { return len(l.Gaps) == 0 && len(l.Files) == 0 }

// Of is what was given up of a target.
func (l *Ledger) Of(t Target) (gaps []Gap, files []File) {
	for _, g := range l.Gaps {
		if g.Target == t {
			gaps = append(gaps, g)
		}
	}
	for _, f := range l.Files {
		if f.Target == t {
			files = append(files, f)
		}
	}
	return gaps, files
}

// LastTry is when the target's storage was last found to take nothing, as far as it is known; else its At is zero.
func (l *Ledger) LastTry(t Target) Try {
	for _, try := range l.Tries {
		if try.Target == t {
			return try
		}
	}
	return Try{Target: t}
}

// Failed notes that a target's storage took nothing.
func (l *Ledger) Failed(try Try) {
	l.Tries = append(slices.DeleteFunc(l.Tries, func(o Try) bool { return o.Target == try.Target }), try)
}

// Answered forgets a try, unless a later one has failed meanwhile.
func (l *Ledger) Answered(try Try) {
	l.Tries = slices.DeleteFunc(l.Tries, func(o Try) bool { return o.Target == try.Target && !o.At.After(try.At) })
}

// Drop adds a segment that is given up, as g, whose Last and To are not looked at: to the target's last gap, where it follows that, or as one of its own.
func (l *Ledger) Drop(g Gap) {
	g.Last, g.To = g.First, g.From
	for k := len(l.Gaps) - 1; k >= 0; k-- {
		last := &l.Gaps[k]
		if last.Target != g.Target {
			continue
		}
		if last.row(g) && (last.Last+1 == g.First || last.Last == g.First) {
			last.Last, last.To, last.Error, last.Limit = g.First, g.From, g.Error, g.Limit
			last.Waiting = max(last.Waiting, g.Waiting)
			return
		}
		break
	}
	l.Gaps = append(l.Gaps, g)
}

// DropFile adds a file of another kind.
func (l *Ledger) DropFile(f File) {
	l.Forget(f)
	l.Files = append(l.Files, f)
}

// Noted takes away segments that the archive knows by now to be given up. What was added to the row meanwhile stays.
func (l *Ledger) Noted(noted Gap) {
	var left []Gap
	for _, g := range l.Gaps {
		if !g.row(noted) || g.Last < noted.First || g.First > noted.Last {
			left = append(left, g)
			continue
		}
		if g.First < noted.First {
			head := g
			head.Last, head.To = noted.First-1, noted.From
			left = append(left, head)
		}
		if g.Last > noted.Last {
			g.First, g.From = noted.Last+1, noted.To
			left = append(left, g)
		}
	}
	l.Gaps = left
}

// Forget takes away a file that the archive has by now, or knows to be lost.
func (l *Ledger) Forget(f File) {
	l.Files = slices.DeleteFunc(l.Files, func(o File) bool { return o.Target == f.Target && o.Name == f.Name })
}

// save makes the ledger durable, or removes the file of an empty one. When it returns nil, no crash takes back what it says.
func (l *Ledger) save() error {
	if l.Empty() {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove record of gaps: %w", err)
		}
		return nil
	}
	content, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write record of gaps: %w", err)
	}
	text, err := json.Marshal(ledgerFile{Version: ledgerVersion, Ledger: content, Sum: ledgerSum(content)})
	if err != nil {
		return fmt.Errorf("write record of gaps: %w", err)
	}
	if err := durable.Replace(l.path, 0o600, append(text, '\n')); err != nil {
		return fmt.Errorf("write record of gaps: %w", err)
	}
	return nil
}
