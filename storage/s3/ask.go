package s3

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
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
func IsLasting(err error) bool { return IsNoBucket(err) || IsRegion(err) || IsNotTLS(err) }

// IsOfKeys says whether err is of the place that gives keys, not of the storage.
func IsOfKeys(err error) bool {
	var c *credentialError
	return errors.As(err, &c)
}

// IsRegion says whether err is the storage's word that the bucket is in another region.
func IsRegion(err error) bool {
	switch code(err) {
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return true
	}
	return false
}

// IsNotTLS says whether err means that what answers at an endpoint of https speaks http.
func IsNotTLS(err error) bool { return errors.Is(err, http.ErrSchemeMismatch) }

// IsTLS says whether err is the word of what answers at an endpoint of http that it expects https.
func IsTLS(err error) bool {
	var r minio.ErrorResponse
	return errors.As(err, &r) && r.StatusCode == http.StatusBadRequest && strings.Contains(r.Message, "HTTPS")
}

// MayBeTLS says whether err, at an endpoint of http, may come from a server that expects https and does not say so: it ends the connection.
func MayBeTLS(err error) bool {
	var u *url.Error
	if !errors.As(err, &u) || !strings.HasPrefix(u.URL, "http:") {
		return false
	}
	return errors.Is(err, errClosed) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || strings.Contains(u.Err.Error(), "malformed HTTP")
}

// IsUntrusted says whether err means that the certificate of the storage is of nobody who is trusted.
func IsUntrusted(err error) bool {
	var u x509.UnknownAuthorityError
	return errors.As(err, &u)
}

// IsSkewed says whether err means that this machine's clock is wrong, or the storage's.
func IsSkewed(err error) bool {
	var c x509.CertificateInvalidError
	return code(err) == "RequestTimeTooSkewed" || errors.As(err, &c) && c.Reason == x509.Expired
}

// IsExpired says whether err means that the keys were temporary, and their time is over.
func IsExpired(err error) bool {
	switch code(err) {
	case "ExpiredToken", "TokenRefreshRequired":
		return true
	}
	return false
}

// IsArchived says whether err means that an object is in a class from which somebody has to thaw it first.
func IsArchived(err error) bool { return code(err) == "InvalidObjectState" }

// IsNoLock says whether err is a refusal of a retention, because the bucket was made without object lock.
func IsNoLock(err error) bool {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return false
	}
	text := strings.ToLower(strings.ReplaceAll(r.Message, " ", ""))
	return r.Code == "ObjectLockConfigurationNotFoundError" || r.Code == "InvalidRequest" && strings.Contains(text, "missingobjectlock")
}

// MissingKey is the variable of the environment that is not set while its other half is, where that is why err has no credentials; else "".
func MissingKey(err error) string {
	const id, secret = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
	switch {
	case !errors.Is(err, errNoKeys) || (os.Getenv(id) == "") == (os.Getenv(secret) == ""):
		return ""
	case os.Getenv(id) == "":
		return id
	}
	return secret
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
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
		"RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests", "TooManyRequestsException", "KMS.ThrottlingException", "ServiceUnavailable":
		return a.after, true
	}
	return a.after, r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusTooManyRequests
}

// Place tells this storage from every other one: endpoint, bucket and prefix. It holds no secret.
func (s *Store) Place() string {
	return s.core.Client.EndpointURL().String() + "/" + s.bucket + "/" + s.prefix
}
