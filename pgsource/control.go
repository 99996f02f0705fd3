package pgsource

import (
	"bytes"
	"context"
	"fmt"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// ReadControlFile reads pg_control whole (8192 bytes, the caller's to keep), again until its CRC is right. It is to be read after all
// other files: a standby's minimum recovery point, which is in it, must not lie before a page that was copied
// (do_pg_backup_stop in xlog.c).
//
// Errors: ErrForeign, ErrConnectionLost, those of pg.ReadControlBytes.
func (b *Backup) ReadControlFile(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, control, err := pg.ReadControlBytes(b.c.root)
	if err != nil {
		return nil, err
	}
	if err := b.checkControl(control); err != nil {
		return nil, err
	}
	return data, nil
}

// checkControl makes sure that a control file is this server's: since the backup started, its last checkpoint is the backup's or
// a later one.
func (b *Backup) checkControl(control *pg.Control) error {
	if control.SystemID != b.c.info.SystemID {
		return fmt.Errorf("data directory %s: %w: its system identifier is %s, the server's is %s", b.c.root, ErrForeign,
			control.SystemID, b.c.info.SystemID)
	}
	if control.RedoLSN < b.StartLSN {
		return fmt.Errorf("data directory %s: %w: its last checkpoint is from before the backup (%s, not %s)", b.c.root, ErrForeign,
			control.RedoLSN, b.StartLSN)
	}
	return nil
}

// bytesContent is a file that was read already.
type bytesContent struct{ *bytes.Reader }

func (b bytesContent) Size() (int64, error) { return b.Reader.Size(), nil }
func (bytesContent) Close() error           { return nil }

func (b *Backup) openControl(ctx context.Context) (snapshot.Content, error) {
	data, err := b.ReadControlFile(ctx)
	if err != nil {
		return nil, err
	}
	return bytesContent{bytes.NewReader(data)}, nil
}
