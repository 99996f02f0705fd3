package pg

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MajorFromCatalogVersion is the major version whose released servers have this catalog version (catversion.h), such as 15; 0 for
// one that is not known: a development version or a derivative. The control version does not tell: it is 1300 from 13 to 16.
func MajorFromCatalogVersion(v uint32) int {
	switch v {
	case 202007201:
		return 13
	case 202107181:
		return 14
	case 202209061:
		return 15
	case 202307071:
		return 16
	case 202406281:
		return 17
	case 202506291:
		return 18
	}
	return 0
}

// MajorFromWALMagic is the major version whose WAL pages begin with the number (XLOG_PAGE_MAGIC), 0 for an unknown one.
func MajorFromWALMagic(magic uint16) int {
	switch magic {
	case 0xD106:
		return 13
	case 0xD10D:
		return 14
	case 0xD110:
		return 15
	case 0xD113:
		return 16
	case 0xD116:
		return 17
	case 0xD118:
		return 18
	}
	return 0
}

// ReadMajor reads the major version from PG_VERSION in the data directory pgdata.
// Errors: fs.ErrNotExist when the file is not there, as in what is no data directory; ErrSyntax.
func ReadMajor(pgdata string) (int, error) {
	b, err := os.ReadFile(filepath.Join(pgdata, "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("read version of data directory: %w", err)
	}
	text := strings.TrimSpace(string(b))
	major, err := strconv.Atoi(text)
	if err != nil || major < 1 {
		return 0, fmt.Errorf("version %q in %s: %w", clip(text), filepath.Join(pgdata, "PG_VERSION"), ErrSyntax)
	}
	return major, nil
}
