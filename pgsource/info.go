package pgsource

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// Info is what a server says of itself, as of Connect.
type Info struct {
	Version       int // server_version_num, such as 150018
	SystemID      pg.SystemID
	Timeline      pg.Timeline // of the last checkpoint or restart point
	InRecovery    bool        // it is a standby
	DataDirectory string      // as the server names it; Cluster.DataDir is where it was found
	Port          int
	Layout        Layout
	WAL           WALSettings
	Config        ConfigFiles

	statsTemp string // stats_temp_directory, up to 14
}

// Layout is what initdb fixed, and whether data pages have checksums.
type Layout struct {
	BlockSize      int    // bytes
	RelSegSize     uint32 // blocks in a file of a large relation
	WALBlockSize   int    // bytes
	WALSegmentSize pg.SegmentSize
	Checksums      bool
}

// WALSettings are the server's settings that say what becomes of its WAL.
type WALSettings struct {
	Level          string // wal_level
	FullPageWrites bool
	SummarizeWAL   bool   // 17 and later
	ArchiveMode    string // off, on, always
	ArchiveCommand string // "" also while archive_mode is off
	ArchiveLibrary string // 15 and later
}

// ConfigFiles are absolute paths as the server names them, "" where it has none.
type ConfigFiles struct {
	Main, HBA, Ident string
	sources          []string // files that settings in force come from
}

// Major is the major version, such as 15.
func (i Info) Major() int { return i.Version / 10000 }

// Archives reports whether the server itself, primary or standby as it is, hands finished segments to an archive command or
// library.
func (i Info) Archives() bool {
	if i.WAL.ArchiveMode != "always" && (i.WAL.ArchiveMode != "on" || i.InRecovery) {
		return false
	}
	return i.WAL.ArchiveCommand != "" || i.WAL.ArchiveLibrary != ""
}

// Info is what the server said when it was connected to.
func (c *Cluster) Info() Info { return c.info }

// DataDir is the data directory on this host, links resolved.
func (c *Cluster) DataDir() string { return c.root }

// Server is what a snapshot's manifest says of the cluster.
func (c *Cluster) Server() snapshot.Server {
	return snapshot.Server{
		SystemID:       c.info.SystemID,
		Version:        c.info.Version,
		BlockSize:      c.info.Layout.BlockSize,
		WALSegmentSize: c.info.Layout.WALSegmentSize,
		Checksums:      c.info.Layout.Checksums,
		DataDirectory:  c.info.DataDirectory,
	}
}

func (c *Cluster) readVersion(ctx context.Context) error {
	var text string
	if err := c.row(ctx, "SHOW server_version_num", nil, &text); err != nil {
		return fmt.Errorf("read server version: %w", err)
	}
	version, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("read server version: %w", err)
	}
	if major := version / 10000; major < pg.OldestMajor || major > pg.NewestMajor {
		return &VersionError{Version: version}
	}
	c.info.Version = version
	return nil
}

// settingNames are the settings that readInfo looks at; those that a version does not have are missing in its answer.
func settingNames() []string {
	return []string{
		"port", "data_directory", "config_file", "hba_file", "ident_file",
		"block_size", "segment_size", "wal_block_size", "wal_segment_size", "data_checksums",
		"wal_level", "full_page_writes", "summarize_wal", "archive_mode", "archive_command", "archive_library",
		"stats_temp_directory",
	}
}

func (c *Cluster) readInfo(ctx context.Context) error {
	set := make(map[string]string)
	err := c.rows(ctx, "SELECT name, coalesce(setting, '') FROM pg_catalog.pg_settings WHERE name = ANY ($1)", []any{settingNames()},
		func(row pgx.CollectableRow) error {
			var name, value string
			err := row.Scan(&name, &value)
			set[name] = value
			return err
		})
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if err := c.info.fill(set); err != nil {
		return err
	}
	err = c.rows(ctx, "SELECT DISTINCT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL ORDER BY 1", nil,
		func(row pgx.CollectableRow) error {
			var file string
			err := row.Scan(&file)
			c.info.Config.sources = append(c.info.Config.sources, file)
			return err
		})
	if err != nil {
		return fmt.Errorf("read files of settings: %w", err)
	}
	if err := c.row(ctx, "SELECT pg_is_in_recovery()", nil, &c.info.InRecovery); err != nil {
		return fmt.Errorf("ask whether the server is in recovery: %w", err)
	}
	return nil
}

// fill reads settings in the units of pg_settings: segment_size in blocks, wal_segment_size in bytes.
func (i *Info) fill(set map[string]string) error {
	var failed error
	number := func(name string) uint32 {
		v, err := strconv.ParseUint(set[name], 10, 32)
		if err != nil && failed == nil {
			failed = fmt.Errorf("read setting %s: %w", name, err)
		}
		return uint32(v)
	}
	i.Port = int(number("port"))
	i.DataDirectory = set["data_directory"]
	i.Config = ConfigFiles{Main: set["config_file"], HBA: set["hba_file"], Ident: set["ident_file"]}
	i.Layout = Layout{
		BlockSize:      int(number("block_size")),
		RelSegSize:     number("segment_size"),
		WALBlockSize:   int(number("wal_block_size")),
		WALSegmentSize: pg.SegmentSize(number("wal_segment_size")),
		Checksums:      set["data_checksums"] == "on",
	}
	i.WAL = WALSettings{
		Level:          set["wal_level"],
		FullPageWrites: set["full_page_writes"] == "on",
		SummarizeWAL:   set["summarize_wal"] == "on",
		ArchiveMode:    set["archive_mode"],
		ArchiveCommand: set["archive_command"],
		ArchiveLibrary: set["archive_library"],
	}
	if i.WAL.ArchiveCommand == "(disabled)" { // show_archive_command in xlog.c
		i.WAL.ArchiveCommand = ""
	}
	i.statsTemp = set["stats_temp_directory"]
	return failed
}
