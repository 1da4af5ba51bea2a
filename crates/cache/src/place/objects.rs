//! Buckets and containers, with the fields that buildx has for them and the variables that the services' own tools read.

use wbuild_remote::{HttpUrl, ObjectService};

use super::{Fields, PlaceError, Variables};
use crate::backend::ObjectsPlace;

/// What buildx knows besides, and is decided otherwise here.
const IGNORED: [&str; 5] =
    ["blobs_prefix", "manifests_prefix", "upload_parallelism", "touch_refresh", "touch_refresh_interval"];

/// Collects settings.
struct Settings<'a> {
    fields: &'a mut Fields,
    variable: Variables<'a>,
    found: Vec<(&'static str, String)>,
}

impl Settings<'_> {
    fn variables(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| (self.variable)(name).filter(|value| !value.is_empty()))
    }

    fn find(&mut self, field: &str, variables: &[&str]) -> Option<String> {
        self.fields.take(field).or_else(|| self.variables(variables))
    }

    /// Passes a field, or the first variable that is set, on as a setting.
    fn pass(&mut self, setting: &'static str, field: &str, variables: &[&str]) -> bool {
        let found = self.find(field, variables);
        let is_there = found.is_some();
        self.found.extend(found.map(|value| (setting, value)));
        is_there
    }

    /// The same of all variables that are named as settings are.
    fn pass_variables(&mut self, settings: &[&'static str]) {
        for setting in settings {
            let value = self.variables(&[&setting.to_ascii_uppercase()]);
            self.found.extend(value.map(|value| (*setting, value)));
        }
    }

    fn endpoint(&mut self, field: &str, variables: &[&str]) -> Result<Option<HttpUrl>, PlaceError> {
        let Some(text) = self.find(field, variables) else { return Ok(None) };
        self.fields.url(&text).map(Some)
    }

    fn place(self, service: ObjectService, kind: &str, bucket: &str) -> ObjectsPlace {
        let Self { fields, found, .. } = self;
        let prefix = fields.take("prefix").unwrap_or_default();
        fields.scope = fields.take("name");
        fields.ignore(&IGNORED);
        let prefix = prefix.trim_matches('/').to_owned();
        let shown = format!("{kind}{bucket}/{prefix}").trim_end_matches('/').to_owned();
        ObjectsPlace { service, settings: found, prefix, shown }
    }
}

/// `https://host:port`, and the path after it.
fn plain(url: &HttpUrl) -> String {
    url.identity().trim_end_matches('/').to_owned()
}

pub(super) fn s3(fields: &mut Fields, variable: Variables<'_>) -> Result<ObjectsPlace, PlaceError> {
    let path_style = fields.switch("use_path_style", true)?;
    let mut settings = Settings { fields, variable, found: Vec::new() };
    let Some(bucket) = settings.find("bucket", &["AWS_BUCKET"]) else {
        return Err(settings.fields.error("it needs bucket=".to_owned()));
    };
    settings.found.push(("aws_bucket", bucket.clone()));
    settings.pass("aws_region", "region", &["AWS_REGION", "AWS_DEFAULT_REGION"]);
    let endpoint = settings.endpoint("endpoint_url", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])?;
    if let Some(url) = &endpoint {
        let url = plain(url);
        let url = match url.split_once("://") {
            Some((scheme, host)) if !path_style => format!("{scheme}://{bucket}.{host}"),
            _ => url,
        };
        settings.found.push(("aws_endpoint", url));
        settings.found.push(("aws_allow_http", "true".to_owned()));
    }
    settings.found.push(("aws_virtual_hosted_style_request", (!path_style).to_string()));
    let own_key = settings.pass("aws_access_key_id", "access_key_id", &[]);
    let own_secret = settings.pass("aws_secret_access_key", "secret_access_key", &[]);
    if own_key != own_secret {
        let why = "access_key_id= and secret_access_key= go together";
        return Err(settings.fields.error(why.to_owned()));
    }
    settings.pass("aws_session_token", "session_token", &[]);
    if !own_key {
        // Those of one person: a token of the environment belongs to its key.
        settings.pass_variables(&[
            "aws_access_key_id",
            "aws_secret_access_key",
            "aws_session_token",
            "aws_web_identity_token_file",
            "aws_role_arn",
            "aws_role_session_name",
            "aws_endpoint_url_sts",
            "aws_container_credentials_relative_uri",
            "aws_container_credentials_full_uri",
            "aws_container_authorization_token_file",
        ]);
    }
    Ok(settings.place(ObjectService::S3, "s3://", &bucket))
}

pub(super) fn gcs(fields: &mut Fields, variable: Variables<'_>) -> Result<ObjectsPlace, PlaceError> {
    let mut settings = Settings { fields, variable, found: Vec::new() };
    let bucket = settings.fields.need("bucket")?;
    settings.found.push(("google_bucket", bucket.clone()));
    if let Some(url) = settings.endpoint("endpoint_url", &[])? {
        settings.found.push(("google_base_url", plain(&url)));
        settings.found.push(("allow_http", "true".to_owned()));
    }
    if !settings.pass("google_bearer_token", "token", &["GOOGLE_OAUTH_ACCESS_TOKEN"])
        && !settings.pass(
            "google_application_credentials",
            "credentials",
            &["GOOGLE_APPLICATION_CREDENTIALS"],
        )
    {
        settings.pass_variables(&["google_service_account", "google_service_account_key"]);
    }
    Ok(settings.place(ObjectService::Gcs, "gs://", &bucket))
}

pub(super) fn azblob(fields: &mut Fields, variable: Variables<'_>) -> Result<ObjectsPlace, PlaceError> {
    let mut settings = Settings { fields, variable, found: Vec::new() };
    let Some(container) = settings.find("container", &["AZURE_STORAGE_CONTAINER"]) else {
        return Err(settings.fields.error("it needs container=".to_owned()));
    };
    settings.found.push(("azure_container_name", container.clone()));
    let url = settings.endpoint("account_url", &["AZURE_STORAGE_ACCOUNT_URL"])?;
    let named = settings.find("account_name", &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]);
    let account = match (named, &url) {
        (Some(account), _) => account,
        (None, Some(url)) => account_of(&plain(url)),
        (None, None) => return Err(settings.fields.error("it needs account_url=".to_owned())),
    };
    settings.found.push(("azure_storage_account_name", account.clone()));
    if let Some(url) = url {
        settings.found.push(("azure_storage_endpoint", plain(&url)));
        settings.found.push(("allow_http", "true".to_owned()));
    }
    let keys = ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"];
    if !settings.pass("azure_storage_account_key", "secret_access_key", &keys)
        && !settings.pass("azure_storage_sas_token", "sas_token", &["AZURE_STORAGE_SAS_TOKEN"])
    {
        settings.pass_variables(&[
            "azure_client_id",
            "azure_client_secret",
            "azure_tenant_id",
            "azure_federated_token_file",
            "azure_authority_host",
        ]);
    }
    Ok(settings.place(ObjectService::Azure, &format!("azblob://{account}/"), &container))
}

/// `team` of `https://team.blob.core.windows.net`, and of `http://127.0.0.1:10000/team`.
fn account_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    match rest.split_once('/') {
        Some((_, path)) => path.split('/').next().unwrap_or_default().to_owned(),
        None => rest.split(['.', ':']).next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Place, PlaceKind, Role};
    use super::*;

    fn settings(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let place = Place::parse(Role::Export, text, &variable).unwrap();
        assert!(!format!("{place:?}").contains("s3cret"));
        let PlaceKind::Objects(objects) = place.kind else { panic!("{place:?}") };
        let settings = objects.settings.iter().map(|(name, value)| format!("{name}={value}"));
        settings.chain([objects.shown]).collect()
    }

    #[test]
    fn buckets_as_buildx_names_them() {
        let text = "type=s3,bucket=b,region=r,endpoint_url=http://h:9000/,use_path_style=true,prefix=p/,name=n,\
                    access_key_id=AK,secret_access_key=s3cret,session_token=s3cret2,upload_parallelism=4,mode=max";
        assert_eq!(
            settings(text, &[("AWS_ACCESS_KEY_ID", "other")]),
            [
                "aws_bucket=b",
                "aws_region=r",
                "aws_endpoint=http://h:9000",
                "aws_allow_http=true",
                "aws_virtual_hosted_style_request=false",
                "aws_access_key_id=AK",
                "aws_secret_access_key=s3cret",
                "aws_session_token=s3cret2",
                "s3://b/p"
            ]
        );
        assert_eq!(Place::parse(Role::Export, text, &|_| None).unwrap().scope.as_deref(), Some("n"));
        let virtual_hosts = "type=s3,bucket=b,endpoint_url=https://s3.h,use_path_style=false";
        let from = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "s3cret"), ("AWS_REGION", "r")];
        let found = settings(virtual_hosts, &from);
        assert!(found.contains(&"aws_endpoint=https://b.s3.h".to_owned()), "{found:?}");
        assert!(found.contains(&"aws_secret_access_key=s3cret".to_owned()), "{found:?}");
    }

    #[test]
    fn containers_and_their_accounts() {
        assert_eq!(account_of("https://team.blob.core.windows.net"), "team");
        assert_eq!(account_of("http://127.0.0.1:10000/devstoreaccount1"), "devstoreaccount1");
        let text =
            "type=azblob,account_url=https://team.blob.core.windows.net,container=c,secret_access_key=s3cret";
        let found = settings(text, &[]);
        assert!(found.contains(&"azure_storage_account_key=s3cret".to_owned()), "{found:?}");
        assert_eq!(found.last().unwrap(), "azblob://team/c");
        let from = [("GOOGLE_APPLICATION_CREDENTIALS", "/key.json")];
        let found = settings("type=gcs,bucket=b", &from);
        assert!(found.contains(&"google_application_credentials=/key.json".to_owned()), "{found:?}");
    }

    #[test]
    fn what_is_wrong_with_buckets() {
        let refused = |text| Place::parse(Role::Export, text, &|_| None).unwrap_err().to_string();
        assert!(refused("type=s3").ends_with("it needs bucket="));
        assert!(refused("type=gcs").ends_with("it needs bucket="));
        assert!(refused("type=azblob,container=c").ends_with("it needs account_url="));
        let error = refused("type=azblob,container=c,sas_token=s3cret");
        assert!(!error.contains("s3cret"), "{error}");
        let error = refused("type=s3,bucket=b,secret_access_key=s3cret");
        assert!(error.contains("go together") && !error.contains("s3cret"), "{error}");
    }
}
