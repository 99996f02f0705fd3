package s3

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
)

// Speaks says whether err is of object storage: an answer of it, or that none came.
func Speaks(err error) bool {
	var r minio.ErrorResponse
	var u *url.Error
	var c *credentialError
	return errors.As(err, &r) || errors.As(err, &u) || errors.As(err, &c)
}

// IsNoBucket says whether err is the storage's word that there is no such bucket.
func IsNoBucket(err error) bool {
	var r minio.ErrorResponse
	return errors.As(err, &r) && r.Code == "NoSuchBucket"
}

// IsLasting says whether err, though of class storage.ErrUnreachable, is one that waiting does not mend: the storage answers, and is not the one
// that was meant. For retry.Options.
func IsLasting(err error) bool {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return false
	}
	switch r.Code {
	case "NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return true
	}
	return false
}

// IsThrottled says whether err means that the storage has too much to do, and for how long it asked to be left alone, 0 if it did not say. For
// retry.Options.
func IsThrottled(err error) (time.Duration, bool) {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return 0, false
	}
	var a answer
	_ = errors.As(err, &a)
	switch r.Code {
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable":
		return a.after, true
	}
	return a.after, r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusTooManyRequests
}

// Place tells this storage from every other one: endpoint, bucket and prefix. It holds no secret.
func (s *Store) Place() string {
	return s.core.Client.EndpointURL().String() + "/" + s.bucket + "/" + s.prefix
}
