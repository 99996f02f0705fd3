package pgsource

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// File is one line of what is to be stored: a file, a directory, a link.
//
// A directory or file whose Entry.Link is not empty was a link in the data directory (in it, Link is the link's target), or is
// a configuration file from elsewhere (Link is where it was). Its contents are stored as if they stood in its place, so a
// restore needs no place outside; that is what pgBackRest restores by default, while pg_basebackup leaves such files out.
type File struct {
	Entry    snapshot.Entry // Size is as listed; Recipe is empty
	Disk     string         // where it is on this host
	Relation bool           // a relation's file by its name: to be cut and verified by pages
	Fork     pg.Fork        // of a relation's file
	// FirstBlock is the number of the relation file's first block: files after the first count on.
	FirstBlock uint32
	// Control marks pg_control, to be read after all others by Backup.ReadControlFile instead of Open.
	Control bool
}

// Open opens a regular file as it is now. fs.ErrNotExist: it is gone, which is no error of a backup.
func (f *File) Open() (*Content, error) {
	// Not to hang where a pipe has taken the file's place.
	file, err := os.OpenFile(f.Disk, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: it is no regular file any more", f.Disk)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Content{file: file, size: info.Size()}, nil
}

// Content is an open file up to the size that it had when it was opened: what is appended later is in the WAL. It is a
// snapshot.Content, safe for several goroutines.
type Content struct {
	file *os.File
	size int64
}

// Size is the size at Open in bytes. The file may be shorter now.
func (c *Content) Size() (int64, error) { return c.size, nil }

// ReadAt reads as io.ReaderAt says; it meets io.EOF at Size, or where the file ends now.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if off >= c.size {
		return 0, io.EOF
	}
	if int64(len(p)) <= c.size-off {
		return c.file.ReadAt(p, off)
	}
	n, err := c.file.ReadAt(p[:c.size-off], off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// Close closes the file.
func (c *Content) Close() error { return c.file.Close() }

// Sources makes of files what snapshot.Take reads. v checks the pages of relations; nil, or a cluster without checksums: nothing is
// checked. changes, nil if there are none, says what may have changed of the files that it covers. ctx is that of the whole backup.
func (b *Backup) Sources(ctx context.Context, files []File, v *Verifier, changes *Changes) []snapshot.Source {
	form := chunk.Form(bits.TrailingZeros(uint(b.c.info.Layout.BlockSize)))
	sources := make([]snapshot.Source, len(files))
	for i := range files {
		f, s := &files[i], &sources[i]
		s.Entry = f.Entry
		if f.Entry.Type != snapshot.File {
			continue
		}
		if f.Control {
			s.Last = true
			s.Open = func() (snapshot.Content, error) { return b.openControl(ctx) }
			continue
		}
		s.Open = func() (snapshot.Content, error) { return f.content() }
		if !f.Relation {
			continue
		}
		s.Form = form
		if changes != nil {
			s.Changed = changes.set(f)
		}
		if v != nil && b.c.info.Layout.Checksums {
			s.Check = func(ctx context.Context, pages []byte, first int64) (snapshot.Checked, error) {
				return v.Check(ctx, f, pages, first)
			}
		}
	}
	return sources
}

// content is Open without a typed nil.
func (f *File) content() (snapshot.Content, error) {
	c, err := f.Open()
	if err != nil {
		return nil, err
	}
	return c, nil
}
