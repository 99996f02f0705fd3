package pgsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Verifier checks the checksums of pages that were read while the server writes them. It is safe for several goroutines.
type Verifier struct {
	start     pg.LSN
	blockSize int
	insertLSN func(context.Context) (pg.LSN, error)
	patience  atomic.Int32
}

// NewVerifier makes a verifier for a backup that started at start. insertLSN returns a position that no page on disk is beyond when
// it is called; it is called from several goroutines, only after a page was wrong.
func NewVerifier(start pg.LSN, blockSize int, insertLSN func(context.Context) (pg.LSN, error)) *Verifier {
	v := &Verifier{start: start, blockSize: blockSize, insertLSN: insertLSN}
	v.patience.Store(patientRuns)
	return v
}

// Verifier makes the verifier for this backup.
func (b *Backup) Verifier() *Verifier {
	return NewVerifier(b.StartLSN, b.c.info.Layout.BlockSize, b.c.insertLSN)
}

// rereads are the pauses before a wrong page is read again. A page that was torn because the server was writing it is whole
// after the first; more are for a server that is starved.
func rereads() []time.Duration {
	return []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}
}

// patientRuns is for how many runs with pages that stay wrong all pauses are made. With a file full of them they would add up
// to hours, and no server writes to all of it at once; afterwards a wrong page is only read again after the first two.
const patientRuns = 20

// Check verifies consecutive pages that were read from f, first being the number of the first in the file, and returns those that are
// damaged. A page is right when its checksum is, or when it is all zeros (PageIsVerified in bufpage.c; an uninitialised page
// has no checksum). One that is wrong is read again, into pages. It is not damaged when its LSN lies after the backup's
// start: it was being written, and recovery begins with a full image of it.
//
// Errors: ErrConnectionLost; those of reading f, save that it is gone or shorter.
func (v *Verifier) Check(ctx context.Context, f *File, pages []byte, first int64) (snapshot.Checked, error) {
	var wrong []int
	for i := range len(pages) / v.blockSize {
		if !valid(v.page(pages, i), block(f, first, i)) {
			wrong = append(wrong, i)
		}
	}
	if wrong == nil {
		return snapshot.Checked{}, nil
	}
	checked := snapshot.Checked{Reread: true}
	wrong, err := v.recheck(ctx, f, pages, first, wrong, &checked.Excused)
	if err != nil {
		return snapshot.Checked{}, fmt.Errorf("verify %s: %w", f.Disk, err)
	}
	for _, i := range wrong {
		page, number := v.page(pages, i), block(f, first, i)
		checked.Damaged = append(checked.Damaged, snapshot.DamagedPage{
			Path:     f.Entry.Path,
			Block:    number,
			Stored:   pg.PageStoredChecksum(page),
			Computed: pg.PageChecksum(page, number),
		})
	}
	return checked, nil
}

func (v *Verifier) page(pages []byte, i int) []byte {
	return pages[i*v.blockSize : (i+1)*v.blockSize : (i+1)*v.blockSize]
}

// block is the number that a page has in its relation.
func block(f *File, first int64, i int) uint32 { return f.FirstBlock + uint32(first) + uint32(i) }

func valid(page []byte, block uint32) bool {
	if pg.PageIsNew(page) {
		return pg.PageIsZero(page)
	}
	return pg.PageStoredChecksum(page) == pg.PageChecksum(page, block)
}

// recheck reads the wrong pages again, until they are right or excused, and returns those that stay wrong.
func (v *Verifier) recheck(ctx context.Context, f *File, pages []byte, first int64, wrong []int, excused *bool) ([]int, error) {
	file, err := os.Open(f.Disk)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for n, pause := range rereads() {
		if n > 1 && v.patience.Load() <= 0 {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if wrong, err = v.reread(ctx, f, file, pages, first, wrong); err != nil {
			return nil, err
		}
		was := len(wrong)
		if wrong, err = v.unexplained(ctx, pages, wrong); len(wrong) < was {
			*excused = true
		}
		if err != nil || len(wrong) == 0 {
			return nil, err
		}
	}
	v.patience.Add(-1)
	return wrong, nil
}

// reread reads pages again and returns those that are still wrong.
func (v *Verifier) reread(ctx context.Context, f *File, file io.ReaderAt, pages []byte, first int64, wrong []int) ([]int, error) {
	var still []int
	for _, i := range wrong {
		page := v.page(pages, i)
		again := make([]byte, len(page))
		_, err := file.ReadAt(again, (first+int64(i))*int64(v.blockSize))
		if errors.Is(err, io.EOF) {
			continue // truncated since: so will recovery
		}
		if err != nil {
			return nil, err
		}
		copy(page, again)
		if !valid(page, block(f, first, i)) {
			still = append(still, i)
		}
	}
	return still, nil
}

// unexplained drops the pages that recovery writes anew. The position is asked for after the pages were read, so none that the
// server wrote is beyond it. A page whose LSN is exactly the start was last changed by the record before it.
func (v *Verifier) unexplained(ctx context.Context, pages []byte, wrong []int) ([]int, error) {
	var insert pg.LSN
	var still []int
	for _, i := range wrong {
		lsn := pg.PageLSN(v.page(pages, i))
		if lsn > v.start && insert == 0 {
			var err error
			if insert, err = v.insertLSN(ctx); err != nil {
				return nil, err
			}
		}
		if lsn <= v.start || lsn > insert {
			still = append(still, i)
		}
	}
	return still, nil
}
