package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/storage/s3"
)

// storageSettings say how the repository's storage is spoken to.
type storageSettings struct {
	LimitUpload   int64 // bytes a second; 0: no limit
	LimitDownload int64
	RetryTime     time.Duration // 0: nothing is tried again
	RetryGiven    bool          // by somebody
	S3            s3.Options    // without its location
}

// defaultRetryTime is for how long a storage that does not answer is asked again. It outlasts the restart of a server.
const defaultRetryTime = 2 * time.Minute

// serverRetryTime is the default where PostgreSQL waits for the command and asks again by itself: its archiver, and a standby. While it waits it does
// not see a changed configuration or a request to be promoted, pg_stat_archiver shows no failure, and a shutdown takes three times as long.
const serverRetryTime = 10 * time.Second

// retryByDefault sets the default to d.
func (s *storageSettings) retryByDefault(d time.Duration) {
	if !s.RetryGiven {
		s.RetryTime = d
	}
}

// minRate is the lowest limit, in bytes a second. With less, a connection among thirty stands still for so long that it counts as lost.
const minRate = 100_000

// storageSettingTable is the part of the table that is about storage. What AWS's own programs read from the environment, they all read from there.
func storageSettingTable() []setting {
	return []setting{
		{"limit-upload", "PGTROVE_LIMIT_UPLOAD", "write at most `size` to the repository per second, such as 20MB (default: no limit)"},
		{"limit-download", "PGTROVE_LIMIT_DOWNLOAD", "read at most `size` from the repository per second (default: no limit)"},
		{"retry-time", "PGTROVE_RETRY_TIME", "for how much `time` object storage that does not answer is tried again (default 2m; 10s for PostgreSQL's archiver and a standby)"},
		{"s3-endpoint", "PGTROVE_S3_ENDPOINT", "`URL` of the object storage (default: AWS_ENDPOINT_URL, the profile's, else AWS)"},
		{"s3-region", "PGTROVE_S3_REGION", "`region` of the bucket (default: AWS_REGION, the profile's, else asked for)"},
		{"s3-profile", "PGTROVE_S3_PROFILE", "`profile` in the shared AWS files (default: AWS_PROFILE)"},
		{"s3-addressing", "PGTROVE_S3_ADDRESSING", "`path` or host: where the bucket's name stands (default: path, but not at AWS)"},
		{"s3-ca-file", "PGTROVE_S3_CA_FILE", "`file` with the certificates to trust (default: AWS_CA_BUNDLE, else the system's)"},
		{"s3-storage-class", "PGTROVE_S3_STORAGE_CLASS", "storage `class` of what is written (default: the bucket's)"},
		{"s3-encrypt", "PGTROVE_S3_ENCRYPT", "`kind` of encryption by the storage, beside our own: s3, kms or kms:KEY (default: the bucket's)"},
		{"s3-checksum", "PGTROVE_S3_CHECKSUM", "`kind` of checksum that the storage compares: crc32c, md5 or none (default crc32c)"},
	}
}

// storageConfig are their keys in the configuration file.
type storageConfig struct {
	LimitUpload    *string `toml:"limit-upload"`
	LimitDownload  *string `toml:"limit-download"`
	RetryTime      *string `toml:"retry-time"`
	S3Endpoint     *string `toml:"s3-endpoint"`
	S3Region       *string `toml:"s3-region"`
	S3Profile      *string `toml:"s3-profile"`
	S3Addressing   *string `toml:"s3-addressing"`
	S3CAFile       *string `toml:"s3-ca-file"`
	S3StorageClass *string `toml:"s3-storage-class"`
	S3Encrypt      *string `toml:"s3-encrypt"`
	S3Checksum     *string `toml:"s3-checksum"`
}

func (c *storageConfig) values() map[string]*string {
	return map[string]*string{
		"limit-upload": c.LimitUpload, "limit-download": c.LimitDownload, "retry-time": c.RetryTime,
		"s3-endpoint": c.S3Endpoint, "s3-region": c.S3Region, "s3-profile": c.S3Profile, "s3-addressing": c.S3Addressing,
		"s3-ca-file": c.S3CAFile, "s3-storage-class": c.S3StorageClass, "s3-encrypt": c.S3Encrypt, "s3-checksum": c.S3Checksum,
	}
}

// parseStorage reads the storage's settings.
func (s *settings) parseStorage(values map[string]value) error {
	st := &s.Storage
	st.S3 = s3.Options{
		Endpoint: values["s3-endpoint"].text, Region: values["s3-region"].text, Profile: values["s3-profile"].text,
		Addressing: s3.Addressing(values["s3-addressing"].text), CAFile: values["s3-ca-file"].text,
		StorageClass: values["s3-storage-class"].text, Encrypt: values["s3-encrypt"].text, Checksum: values["s3-checksum"].text,
	}
	st.RetryTime, st.RetryGiven = defaultRetryTime, values["retry-time"].text != ""
	if text := values["retry-time"].text; text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return fmt.Errorf("retry-time %q: give a time such as 90s or 5m, or 0", text)
		}
		st.RetryTime = d
	}
	var err error
	if st.LimitUpload, err = parseRate("limit-upload", values["limit-upload"].text); err != nil {
		return err
	}
	st.LimitDownload, err = parseRate("limit-download", values["limit-download"].text)
	return err
}

func parseRate(name, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := parseSize(strings.TrimSuffix(text, "/s"))
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s %w", name, err)
	case n != 0 && n < minRate:
		return 0, fmt.Errorf("%s %q: less than 100kB per second is not supported", name, text)
	}
	return n, nil
}

// checkRepo makes sure that a repository that is no directory is one that we know.
func checkRepo(repo string) error {
	switch {
	case strings.HasPrefix(repo, s3.Scheme):
		_, err := s3.ParseLocation(repo)
		return err
	case strings.Contains(repo, "://"):
		if strings.Contains(repo, "@") {
			repo = "with an account in its address" // and may be a password
		}
		return errors.New("repository " + repo + ": give a directory, or " + s3.Scheme + "bucket/prefix")
	}
	return nil
}
