package pgsource

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// openDataDir finds the data directory and makes sure that the server of the connection runs in it: not another cluster, not
// another server of the same cluster (a standby on the same host), not a copy.
func (c *Cluster) openDataDir(ctx context.Context, override string) error {
	dir := override
	if dir == "" {
		dir = c.info.DataDirectory
	}
	fail := func(err error) error { return &DataDirError{Dir: dir, FromServer: override == "", Err: err} }
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fail(err)
	}
	if c.root, err = filepath.EvalSymlinks(abs); err != nil {
		return fail(err)
	}
	if err := c.checkVersion(); err != nil {
		return fail(err)
	}
	if err := c.checkControl(ctx); err != nil {
		return fail(err)
	}
	if err := c.checkPostmaster(); err != nil {
		return fail(err)
	}
	return nil
}

func (c *Cluster) checkVersion() error {
	if _, err := os.ReadDir(c.root); err != nil {
		return err
	}
	major, err := pg.ReadMajor(c.root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it has no file PG_VERSION", ErrNotDataDir)
	case errors.Is(err, pg.ErrSyntax):
		return fmt.Errorf("%w: %w", ErrNotDataDir, err)
	case err != nil:
		return err
	case major != c.info.Major():
		return fmt.Errorf("%w: it is of PostgreSQL %d, the server is %d", ErrForeign, major, c.info.Major())
	}
	return nil
}

// controlTries is how often the control file and the server's view of it are compared: the server may write it in between, and
// up to 16 pg_control_system() fails when it reads it half written.
const controlTries = 5

// checkControl compares the control file here with the one that the server reads: its identifier, and when it was last written.
func (c *Cluster) checkControl(ctx context.Context) error {
	var err error
	for range controlTries {
		if err = c.compareControl(ctx); err == nil || errors.Is(err, ErrConnectionLost) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (c *Cluster) compareControl(ctx context.Context) error {
	before, err := c.readControl()
	if err != nil {
		return err
	}
	var system, written int64
	err = c.row(ctx, "SELECT system_identifier, extract(epoch FROM pg_control_last_modified)::bigint FROM pg_control_system()", nil,
		&system, &written)
	if err != nil {
		return fmt.Errorf("ask server for its identifier: %w", err)
	}
	if id := pg.SystemID(system); before.SystemID != id {
		return fmt.Errorf("%w: its system identifier is %s, the server's is %s", ErrForeign, before.SystemID, id)
	}
	after, err := c.readControl()
	if err != nil {
		return err
	}
	if written < before.Time.Unix() || written > after.Time.Unix() {
		return fmt.Errorf("%w: it belongs to another server of the same cluster, or is a copy", ErrForeign)
	}
	c.info.SystemID, c.info.Timeline = after.SystemID, after.Timeline
	return nil
}

func (c *Cluster) readControl() (*pg.Control, error) {
	control, err := pg.ReadControl(c.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it has no file %s", ErrNotDataDir, pg.ControlPath)
	}
	return control, err
}

// checkPostmaster compares postmaster.pid with the server. Its process is not looked up: the server may run in another
// container than we do. Its fourth line is the port (LOCK_FILE_LINE_PORT in miscadmin.h).
func (c *Cluster) checkPostmaster() error {
	f, err := os.Open(filepath.Join(c.root, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no server runs in it, it has no postmaster.pid", ErrForeign)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	var line string
	for n := 1; n <= 4 && lines.Scan(); n++ {
		if line = ""; n == 4 {
			line = strings.TrimSpace(lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if line != strconv.Itoa(c.info.Port) {
		return fmt.Errorf("%w: the server in it listens on port %q, the one connected to on %d", ErrForeign, line, c.info.Port)
	}
	return nil
}
