package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
)

// maxMessage is how much of a server's text an error repeats, in bytes: some answer with a page.
const maxMessage = 300

// statusClientGone is what proxies say when they think that the client has closed the connection.
const statusClientGone = 499

// answer is a server's refusal, in one line.
type answer struct {
	minio.ErrorResponse
	after time.Duration // for which the server wants to be left alone; 0: it did not say
}

func (a answer) Error() string {
	text := strings.Join(strings.Fields(a.ErrorResponse.Error()), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	switch {
	case a.Code == "" || strings.HasPrefix(a.Code, fmt.Sprint(a.StatusCode)):
		return fmt.Sprintf("%s (HTTP %d)", text, a.StatusCode)
	case a.StatusCode == 0:
		return fmt.Sprintf("%s (%s)", text, a.Code)
	}
	return fmt.Sprintf("%s (%s, HTTP %d)", text, a.Code, a.StatusCode)
}

func (a answer) Unwrap() error { return a.ErrorResponse }

// code is what the server calls the error; "" where it was no server's answer.
func code(err error) string {
	var r minio.ErrorResponse
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// isConflict: nothing was created, because of another call that went on at that time.
func isConflict(err error) bool {
	var r minio.ErrorResponse
	if !errors.As(err, &r) || r.StatusCode != http.StatusConflict {
		return false
	}
	switch r.Code {
	case "ConditionalRequestConflict", "OperationAborted":
		return true
	case "ExistingObjectIsDirectory":
		// A gateway to a file system, when a Delete took away the directory that was just made for this object.
		return true
	}
	return false
}

func isPastEnd(err error) bool {
	var r minio.ErrorResponse
	return errors.As(err, &r) && r.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// isNetwork: nobody answered.
func isNetwork(err error) bool {
	var a *url.Error
	var b net.Error
	return errors.As(err, &a) || errors.As(err, &b) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// wrap gives an error its class. What no server said is the network's.
func wrap(ctx context.Context, op, key string, err error) error {
	e := &storage.Error{Op: op, Key: key, Err: err}
	var r minio.ErrorResponse
	var c *credentialError
	switch {
	case ctx.Err() != nil:
		e.Err = ctx.Err()
	case errors.As(err, &c):
		e.Class = c.class()
	case errors.As(err, &r):
		e.Class, e.Err = class(op, r), answer{r, 0}
		if n := noted(ctx); n != nil {
			e.Err = answer{r, time.Duration(n.after.Load())}
		}
	default:
		e.Class, e.Err = storage.ErrUnreachable, unanswered(err)
	}
	return e
}

// errClosed stands for a text of the library that names the URL a second time and tells people to try again, which retries do.
var errClosed = errors.New("the connection was closed before the answer was complete")

func unanswered(err error) error {
	var u *url.Error
	if errors.As(err, &u) && u.Err != nil && strings.HasPrefix(u.Err.Error(), "Connection closed by foreign host") {
		return &url.Error{Op: u.Op, URL: u.URL, Err: errClosed}
	}
	return err
}

// isPassing says whether a code means that the same request may succeed in a moment. Those of AWS's SDKs, and what they make of a body that was
// damaged or lost on its way. Many come with status 400.
func isPassing(code string) bool {
	switch code {
	case "RequestTimeout", "RequestTimeoutException", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch":
		return true
	case "InternalError", "InternalFailure", "ServiceUnavailable", "PriorRequestNotComplete":
		return true
	case "Throttling", "ThrottlingException", "ThrottledException", "KMS.ThrottlingException", "EC2ThrottledException", "RequestThrottled",
		"RequestThrottledException", "RequestLimitExceeded", "BandwidthLimitExceeded",
		"TooManyRequests", "TooManyRequestsException", "SlowDown", "SlowDownRead", "SlowDownWrite":
		return true
	}
	return false
}

// isWithoutLock says whether an answer to the wish for a retention means that the bucket, or the server, has no object lock. InvalidRequest is the word
// of AWS, MinIO, versitygw and Ceph for it.
func isWithoutLock(r minio.ErrorResponse) bool {
	return r.Code == "InvalidRequest" || r.Code == "ObjectLockConfigurationNotFoundError" || r.StatusCode == http.StatusNotImplemented
}

// class reads the code before the status: servers agree on the first, and proxies in front of them answer with the second only.
func class(op string, r minio.ErrorResponse) error {
	if isPassing(r.Code) {
		return storage.ErrUnreachable
	}
	switch r.Code {
	case "NoSuchKey":
		// The library says so for every 404. A proxy that has lost its servers gives one too, but no element Error.
		if op == "put" || r.XMLName.Local != "Error" {
			return storage.ErrUnreachable
		}
		return storage.ErrNotExist
	case "PreconditionFailed":
		return storage.ErrExist
	case "NoSuchBucket", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return storage.ErrUnreachable // not the storage that was meant
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
		"InvalidToken", "TokenRefreshRequired", "InvalidObjectState", "ObjectLocked", "MethodNotAllowed", "RequestTimeTooSkewed":
		return storage.ErrDenied
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity", "InsufficientStorage":
		return storage.ErrFull
	}
	switch {
	case op == "lock" && isWithoutLock(r):
		return storage.ErrDenied
	case r.StatusCode == http.StatusPreconditionFailed:
		return storage.ErrExist
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return storage.ErrDenied
	case r.StatusCode == http.StatusInsufficientStorage:
		return storage.ErrFull
	case isConflict(r) || r.StatusCode >= 500 || r.StatusCode < 400 || r.StatusCode == http.StatusTooManyRequests ||
		r.StatusCode == http.StatusRequestTimeout || r.StatusCode == http.StatusTooEarly || r.StatusCode == statusClientGone || r.StatusCode == http.StatusNotFound:
		return storage.ErrUnreachable
	}
	return nil
}
