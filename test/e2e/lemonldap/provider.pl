# A second real OpenID Provider on loopback, for the end-to-end tests:
# LemonLDAP::NG's portal, as Debian packages it. What works with this one and
# with oidc-provider is not the habit of either.
#
# It listens on a port that the kernel chooses and prints it as the first
# line; then it reads one line, what it is to serve as JSON, and serves. All it
# writes is in the folder that is its argument. It ends when its standard input
# does.
use strict;
use warnings;

# Before any of LemonLDAP's: the machine's own configuration is none of ours,
# and only some may read it.
BEGIN { $ENV{LLNG_DEFAULTCONFFILE} = '/dev/null/none' }

use Crypt::OpenSSL::RSA;
use HTTP::Server::PSGI;
use IO::Socket::INET;
use JSON qw(decode_json encode_json);
use Lemonldap::NG::Portal;
use Plack::App::File;
use Plack::Request;

my $files   = '/usr/share/lemonldap-ng/portal';
my $secret  = 'secret-secret-secret-secret-secret';
my $workers = 8; # Chromium opens connections that it does not use yet

my $folder   = shift or die 'the first argument is the folder for its sessions';
my $listener = IO::Socket::INET->new( LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 64, Proto => 'tcp' ) or die "listening: $!";
$| = 1;
say_json( { port => $listener->sockport } );
my $wanted = decode_json( scalar <STDIN> );
my $issuer = 'http://127.0.0.1:' . $listener->sockport;
my $app    = noting( portal() );
serve();

sub say_json { print JSON->new->canonical->encode(shift), "\n" }

# client is a relying party with options of its own.
sub client {
    my ( $id, %options ) = @_;
    my $origin = $wanted->{origin};
    my %all    = (
        ClientID               => $id,
        DisplayName            => "The site, as $id",
        RedirectUris           => "$origin/oauth2/callback",
        PostLogoutRedirectUris => "$origin/oauth2/signed-out",
        RequirePKCE            => 1,
        IDTokenSignAlg         => 'RS256',
        IDTokenForceClaims     => 1, # the claims of the scopes are in the ID token
        IDTokenExpiration      => 3600,
        AccessTokenJWT         => 1,
        AccessTokenSignAlg     => 'RS256',
        AccessTokenExpiration  => $wanted->{access_token_seconds},
        RefreshToken           => 1,
        AllowOffline           => 1,
        BypassConsent          => 1,
        LogoutBypassConfirm    => 1, # for who sends an id_token_hint; anybody else is asked
        %options,
    );
    return { map { ( "oidcRPMetaDataOptions$_" => $all{$_} ) } keys %all };
}

sub portal {
    for (qw(conf sessions persistent)) { mkdir "$folder/$_" or die "$folder/$_: $!" }
    my $key     = Crypt::OpenSSL::RSA->generate_key(2048);
    my %clients = (
        public       => client( 'public',       Public       => 1 ),
        confidential => client( 'confidential', ClientSecret => $secret ),
        # What an administrator can choose, and no relying party may accept.
        unsigned  => client( 'unsigned',  Public       => 1,       IDTokenSignAlg => 'none' ),
        symmetric => client( 'symmetric', ClientSecret => $secret, IDTokenSignAlg => 'HS256' ),
    );
    my $claims = { name => 'cn', email => 'mail' };
    my %conf   = (
        cfgNum                                => 1,
        cfgDate                               => time,
        portal                                => "$issuer/",
        domain                                => '127.0.0.1',
        securedCookie                         => 0,
        authentication                        => 'Demo', # dwho, rtyler and msmith; the password is the name
        userDB                                => 'Same',
        passwordDB                            => 'Null',
        locationRules                         => {}, # it guards no site of its own
        # LemonLDAP loads a module for captchas even where there are none; its
        # own would need ImageMagick.
        captcha                               => '::UserDB::Null',
        globalStorage                         => 'Apache::Session::File',
        globalStorageOptions                  => { Directory => "$folder/sessions", LockDirectory => "$folder/sessions" },
        persistentStorage                     => 'Apache::Session::File',
        persistentStorageOptions              => { Directory => "$folder/persistent", LockDirectory => "$folder/persistent" },
        # Every worker looks into the folder: what one has ended is over for all.
        localSessionStorage                   => '',
        tokenUseGlobalStorage                 => 1,
        handlerInternalCache                  => 0,

        issuerDBOpenIDConnectActivation       => 1,
        oidcServiceMetaDataIssuer             => $issuer,
        oidcServiceAllowAuthorizationCodeFlow => 1,
        oidcServicePrivateKeySig              => $key->get_private_key_string,
        oidcServicePublicKeySig               => $key->get_public_key_x509_string,
        oidcServiceKeyIdSig                   => 'e2e',
        oidcRPMetaDataOptions                 => \%clients,
        oidcRPMetaDataExportedVars            => { map { ( $_ => $claims ) } keys %clients },
    );
    open my $file, '>', "$folder/conf/lmConf-1.json" or die "its configuration: $!";
    print $file encode_json( \%conf );
    close $file or die "its configuration: $!";
    return Lemonldap::NG::Portal->run(
        {
            configStorage => { type => 'File', dirName => "$folder/conf" },
            localStorage  => '',
            logLevel      => 'warn',
            templateDir   => "$files/templates",
            staticPrefix  => '/static',
            languages     => 'en',
        }
    );
}

# noting prints, of every request that belongs to the protocol, the names of
# its parameters, and of every answer of the token endpoint those of its
# members; a value, which may be a secret, only of what is none.
sub noting {
    my $portal = shift;
    my %static = (
        static     => Plack::App::File->new( root => "$files/htdocs/static" )->to_app,
        javascript => Plack::App::File->new( root => '/usr/share/javascript' )->to_app, # Debian's own
    );
    return sub {
        my $env = shift;
        if ( $env->{PATH_INFO} =~ m{^/(static|javascript)(/.*)} ) { return $static{$1}->( { %$env, PATH_INFO => $2 } ) }
        my ($endpoint) = $env->{PATH_INFO} =~ m{^/oauth2/(\w+)};
        my $sent       = Plack::Request->new( {%$env} )->parameters;
        my $grant      = $sent->{grant_type};
        my $answer     = $portal->($env);
        return $answer unless $endpoint;
        my %note = ( endpoint => $endpoint, parameters => [ sort keys %$sent ], status => 0 + $answer->[0] );
        if ( $endpoint eq 'token' ) {
            my $said = decode_json( join '', @{ $answer->[2] } );
            %note = ( %note, grant => $grant, error => $said->{error}, members => [ sort keys %$said ] );
        }
        say_json( \%note );
        return $answer;
    };
}

# serve answers until the standard input ends, or a signal says so.
sub serve {
    my @children;
    my $end = sub {
        kill TERM => @children;
        waitpid $_, 0 for @children;
        exit;
    };
    local @SIG{qw(INT TERM)} = ( $end, $end ); # before the first child, so that none is left over
    for ( 1 .. $workers ) {
        push @children, fork // die "fork: $!";
        next if $children[-1];
        @SIG{qw(INT TERM)} = qw(DEFAULT DEFAULT);
        srand; # what is random differs between the workers
        HTTP::Server::PSGI->new( listen_sock => $listener, timeout => 10 )->run($app);
        exit;
    }
    say_json( { issuer => $issuer } );
    1 while <STDIN>;
    $end->();
}
