package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
)

// The AEAD is XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key
// that is derived anew for every message from half of a 192-bit nonce. With
// nonces that are simply random it is safe for 2^80 messages, where AES-GCM
// alone is for 2^32: a busy site would pass that within weeks.
//
// It needs the standard library only, and works under GODEBUG=fips140=only,
// because the second half of the nonce is drawn by crypto/cipher itself.
type xaes struct {
	block cipher.Block
	k1    [aes.BlockSize]byte
}

const (
	xaesKeySize   = 32
	xaesNonceSize = 24
	xaesOverhead  = xaesNonceSize + 16

	// deriveNonceSize is the half of the nonce that the message key is
	// derived from; the other half is the nonce of GCM.
	deriveNonceSize = 12
)

var errOpen = errors.New("cannot be opened")

func newXAES(key []byte) (*xaes, error) {
	if len(key) != xaesKeySize {
		return nil, errors.New("key must have 32 bytes")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	x := &xaes{block: block}
	// K1 as in CMAC (NIST SP 800-38B section 6.1): L doubled in GF(2^128).
	block.Encrypt(x.k1[:], x.k1[:])
	var msb byte
	for i := len(x.k1) - 1; i >= 0; i-- {
		msb, x.k1[i] = x.k1[i]>>7, x.k1[i]<<1|msb
	}
	x.k1[len(x.k1)-1] ^= byte(subtle.ConstantTimeSelect(int(msb), 0x87, 0))
	return x, nil
}

// messageAEAD derives the key of one message and gives its AES-256-GCM, which
// draws and prepends its own half of the nonce.
func (x *xaes) messageAEAD(half []byte) (cipher.AEAD, error) {
	var key [xaesKeySize]byte
	for i := range 2 {
		block := key[i*aes.BlockSize:][:aes.BlockSize]
		copy(block, []byte{0, byte(i + 1), 'X', 0})
		copy(block[4:], half)
		subtle.XORBytes(block, block, x.k1[:])
		x.block.Encrypt(block, block)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal appends nonce, ciphertext and tag to dst.
func (x *xaes) seal(dst, plaintext, aad []byte) ([]byte, error) {
	var half [deriveNonceSize]byte
	_, _ = rand.Read(half[:]) // never fails: crypto/rand crashes the program instead
	aead, err := x.messageAEAD(half[:])
	if err != nil {
		return nil, err
	}
	dst = append(dst, half[:]...)
	return aead.Seal(dst, nil, plaintext, aad), nil //nolint:gosec // it draws its nonce itself
}

// open gives back what seal was given, or errOpen.
func (x *xaes) open(message, aad []byte) ([]byte, error) {
	if len(message) < xaesOverhead {
		return nil, errOpen
	}
	aead, err := x.messageAEAD(message[:deriveNonceSize])
	if err != nil {
		return nil, errOpen
	}
	plaintext, err := aead.Open(nil, nil, message[deriveNonceSize:], aad)
	if err != nil {
		return nil, errOpen
	}
	return plaintext, nil
}
